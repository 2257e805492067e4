"""The relation network against the official code's procedure, pair by pair, and likely mistakes."""

import pytest
import torch
import torch.nn.functional as F
import toy

from metarun.algos.relation import Comparator, RelationNet
from metarun.layers.norm import batch_norms
from metarun.tasks import Examples, Task
from metarun.training.loop import TrainState, fit

MAPS = {"downsample": "max_pool", "features": "map", "blocks": 2, "pools": 1, "filters": 3, "norm": "running"}
LABELS = torch.tensor([2, 0, 1, 0, 1, 2])


def learner(ways=3, seed=0, norm="running", hidden=8, **changes):
    torch.manual_seed(seed)
    return RelationNet(toy.conv4((1, 12, 12), **(MAPS | changes)), ways, F.cross_entropy, hidden, norm).double()


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch():
    """Two 3-way 2-shot tasks with 4 queries."""
    y = torch.stack([LABELS, LABELS.flip(0)])
    return Task(Examples(random(2, 6, 1, 12, 12), y), Examples(random(2, 4, 1, 12, 12, seed=1), y[:, 1:5]))


def pairs_by_hand(support, y, queries, ways=3):
    """Pairs of maps by query and class: the class's sum, then the query."""
    sums = [sum(z for z, label in zip(support, y, strict=True) if label == k) for k in range(ways)]
    return [[torch.cat([s, q]) for s in sums] for q in queries]


def settled(ours):
    """The learner in evaluation mode, with running statistics of a few training steps."""
    for _ in range(3):
        ours(batch())
        ours.after_step()
    return ours.eval()


def test_scores_are_logarithms_of_the_relation_of_each_query_with_each_class_sum(one):
    ours, task = settled(learner()), one(batch())
    support, queries = ours.net(task.support.x), ours.net(task.query.x)
    scores = ours.adapt(task.support)(task.query.x)
    for row, pairs in zip(scores, pairs_by_hand(support, task.support.y, queries), strict=True):
        relations = torch.cat([ours.comparator(pair[None]) for pair in pairs]).sigmoid()
        torch.testing.assert_close(row.exp(), relations, rtol=1e-10, atol=1e-12)
        assert 0 < relations.min() and relations.max() < 1


def test_a_class_is_the_sum_of_its_examples_and_not_their_mean(one):
    ours, task = settled(learner()), one(batch())
    once = Examples(task.support.x[:3], torch.tensor([2, 0, 1]))
    twice = Examples(torch.cat([once.x, once.x]), torch.cat([once.y, once.y]))
    assert not torch.allclose(ours.adapt(twice)(task.query.x), ours.adapt(once)(task.query.x), rtol=1e-3)


def test_the_outer_loss_is_the_mean_squared_error_to_the_class_indicators(one):
    ours, task = learner(), one(batch())
    z = ours.net(torch.cat([task.support.x, task.query.x]))  # one batch, as in training
    pairs = pairs_by_hand(z[:6], task.support.y, z[6:])
    relations = ours.comparator(torch.stack([p for row in pairs for p in row])).sigmoid().view(4, 3)
    total = 0.0
    for i, y in enumerate(task.query.y):
        for k in range(3):
            total += float(relations[i, k].detach() - (1.0 if k == y else 0.0)) ** 2
    assert float(ours.meta_loss(task).detach()) == pytest.approx(total / 12, rel=1e-10)


def test_the_loss_is_zero_where_relations_are_the_class_indicators():
    ours, y = learner(), torch.tensor([0, 2])
    perfect = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).log()
    assert ours.query_loss(perfect, y) == 0
    assert ours.query_loss(perfect.roll(1, 1), y) == pytest.approx(2 / 3)


def test_training_drives_relations_to_zero_and_one(one):
    ours = learner()
    optimizer = torch.optim.Adam(ours.parameters(), lr=0.02)
    task = one(batch())
    task = Task(task.support, task.support)  # to be memorised
    for _ in range(150):
        optimizer.zero_grad()
        ours(Task(*(Examples(*(leaf[None] for leaf in examples)) for examples in task))).sum().backward()
        optimizer.step()
        ours.after_step()
    relations = ours.eval().adapt(task.support)(task.query.x).exp()
    same_class = F.one_hot(LABELS, 3) == 1
    assert relations[same_class].min() > 0.8 and relations[~same_class].max() < 0.2


def test_every_norm_sees_each_batch_once_and_running_statistics_cover_all_pairs(one):
    ours, tasks = learner(), batch()
    calls = {norm: [] for norm in batch_norms(ours)}
    handles = [norm.register_forward_hook(lambda m, inputs, _: calls[m].append(inputs[0].detach())) for norm in calls]
    ours.meta_loss(one(tasks))
    assert [len(inputs) for inputs in calls.values()] == [1] * 4
    for handle in handles:
        handle.remove()
    first = ours.comparator.blocks[1]
    (inputs,) = calls[first]
    assert len(inputs) == 4 * 3
    ours(Task(*(Examples(*(leaf[:1] for leaf in examples)) for examples in tasks)))
    ours.after_step()
    torch.testing.assert_close(first.running_mean, 0.1 * inputs.mean((0, 2, 3)))


def test_queries_do_not_affect_each_other_at_test(one):
    ours, task = settled(learner()), one(batch())
    predict = ours.adapt(task.support)
    one_by_one = torch.cat([predict(x[None]) for x in task.query.x])
    torch.testing.assert_close(one_by_one, predict(task.query.x), rtol=1e-10, atol=1e-12)


def test_vectors_are_maps_of_one_position():
    torch.manual_seed(0)
    ours = RelationNet(toy.mlp((4,), hidden=[5]), 3, F.cross_entropy, 8, "running").double().eval()
    z, queries = random(6, 5), random(4, 5, seed=1)
    maps = ours.head(Examples(z[:, :, None, None], LABELS))(queries[:, :, None, None])
    torch.testing.assert_close(ours.head(Examples(z, LABELS))(queries), maps)
    assert maps.shape == (4, 3)


@pytest.mark.parametrize(("size", "positions"), [(1, 1), (2, 1), (3, 1), (5, 1), (7, 1), (19, 16), (21, 25)])
def test_maps_are_pooled_while_they_are_large_enough(size, positions):
    comparator = Comparator((2, size, size), 8, "running")
    assert comparator.linear[0].in_features == 2 * positions
    assert comparator(torch.rand(3, 4, size, size)).shape == (3,)


def test_the_embedding_may_end_in_flat_or_mean_features():
    for features in ("flatten", "mean"):
        assert learner(features=features)(batch()).shape == (2,)


def test_vmap_equals_a_loop_and_the_gradient_is_right_and_reaches_everything(loss_and_gradient, slopes_agree):
    ours = learner()
    vectorized = loss_and_gradient(ours, batch())
    assert all(p.grad.abs().max() > 0 for p in ours.parameters())
    ours.vectorized = False
    torch.testing.assert_close(loss_and_gradient(ours, batch()), vectorized, rtol=1e-9, atol=1e-11)
    slopes_agree(ours, batch())


def test_the_two_networks_gradients_are_clipped_separately():
    ours = learner()
    groups = ours.parameter_groups()
    assert [group["name"] for group in groups] == ["net", "comparator"]
    assert {p for group in groups for p in group["params"]} == set(ours.parameters())
    meta_optimizer = toy.adam(max_grad_norm=1e-3)
    train_state = TrainState.create(ours, meta_optimizer, torch.device("cpu"), 0)
    step = next(iter(fit(train_state, FixedTasks(), meta_optimizer, 1, 2)))
    assert step.loss > 0
    for group in groups:
        assert torch.cat([p.grad.flatten() for p in group["params"]]).norm() == pytest.approx(1e-3, rel=1e-2)


class FixedTasks(toy.Blobs):
    """The same two tasks at every step."""

    def sample(self, split, stream, tasks, generator):
        return batch()


def test_ways_may_change_after_construction(one):
    ours, task = learner(ways=5), one(batch())
    ours.ways = 2
    assert ours.adapt(Examples(task.support.x, LABELS % 2))(task.query.x).shape == (4, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 0}, "algo.hidden must be an integer of at least 1; got 0"),
        ({"norm": "batch"}, "algo.norm must be one of running, layer, group, none; got 'batch'"),
    ],
)
def test_rejects_invalid_values(change, message):
    with pytest.raises(ValueError, match=message):
        learner(**change)
