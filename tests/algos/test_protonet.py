"""Is it prototypical networks? Against learn2learn's classifier, the paper's formula, and ways of getting it wrong."""

import pytest
import torch
import torch.nn.functional as F
import toy
from hydra import compose, initialize_config_dir

from metarun.algos.protonet import ProtoNet
from metarun.evaluation.evaluate import evaluate
from metarun.experiment.build import build
from metarun.experiment.choices import CONF
from metarun.learner.embedding import class_means, squared_distances
from metarun.tasks import Examples, Task
from metarun.training.loop import TrainState, fit


def learner(norm="batch", ways=5, seed=0):
    torch.manual_seed(seed)
    backbone = toy.conv4((1, 16, 16), downsample="max_pool", features="flatten", blocks=3, norm=norm)
    return ProtoNet(backbone, ways, F.cross_entropy).double()


def episode(ways=5, shots=3, queries=4, seed=0):
    """One task, its support set in any order."""
    generator = torch.Generator().manual_seed(seed)

    def examples(n):
        y = torch.arange(ways).repeat(n)[torch.randperm(ways * n, generator=generator)]
        return Examples(torch.rand(ways * n, 1, 16, 16, generator=generator, dtype=torch.float64), y)

    return Task(examples(shots), examples(queries))


def by_hand(net, task, ways=5):
    """Scores of queries: minus the squared distance to each class's mean, all images embedded as one batch."""
    z = net(torch.cat([task.support.x, task.query.x]))
    support, query = z[: len(task.support.y)], z[len(task.support.y) :]
    prototypes = [support[task.support.y == k].mean(0) for k in range(ways)]
    return torch.stack([-((query - c) ** 2).sum(1) for c in prototypes], 1)


@pytest.mark.parametrize("vectorized", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_head_written_out_is_the_shared_one(dtype, vectorized):
    """Scores and their gradient equal those by `class_means` and `squared_distances` to the last bit."""
    generator = torch.Generator().manual_seed(0)
    ours = learner().to(dtype)
    ours.temperature.fill_(3.0)
    ours.vectorized = vectorized
    z, queries = torch.randn(2, 4, 15, 7, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.stack([torch.arange(5).repeat(3)[torch.randperm(15, generator=generator)] for _ in range(4)])

    def shared(z, y, queries):
        return -squared_distances(queries, class_means(z, y, 5)) / ours.temperature

    outcomes = []
    for score in (lambda z, y, queries: ours.head(Examples(z, y))(queries), shared):
        leaves = [z.clone().requires_grad_(), queries.clone().requires_grad_()]
        scores = ours.map_tasks(score, leaves[0], y, leaves[1])
        loss = F.cross_entropy(scores.flatten(0, 1), y.flatten())
        outcomes.append([scores.detach(), *torch.autograd.grad(loss, leaves)])
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))
    assert all(gradient.abs().max() > 0 for gradient in outcomes[0][1:])


def test_scores_are_learn2learns():
    from learn2learn.nn import PrototypicalClassifier

    ours, task = learner("none"), episode()
    referee = PrototypicalClassifier(ours.net(task.support.x), task.support.y)
    torch.testing.assert_close(ours.adapt(task.support)(task.query.x), referee(ours.net(task.query.x)))


@pytest.mark.parametrize("norm", ["none", "batch", "running"])
def test_the_outer_loss_is_the_papers(norm):
    """Squared distances, means of support examples alone, support and queries in one batch."""
    ours, task = learner(norm), episode()
    loss = F.cross_entropy(by_hand(ours.net, task), task.query.y)
    torch.testing.assert_close(ours.meta_loss(task), loss)


def test_distances_are_divided_by_the_temperature():
    plain, task = learner(), episode()
    assert plain.temperature == 1  # the paper's
    warm = learner()
    warm.temperature.fill_(4.0)
    loss = F.cross_entropy(by_hand(plain.net, task) / 4, task.query.y)
    torch.testing.assert_close(warm.meta_loss(task), loss)
    assert abs(loss - plain.meta_loss(task)) > 1e-3
    with pytest.raises(ValueError, match=r"^algo\.temperature must be above 0; got 0$"):
        ProtoNet(toy.conv4(), 5, F.cross_entropy, temperature=0)


def test_queries_do_not_enter_the_prototypes():
    """The score of a query does not depend on other queries, nor on their labels."""
    ours, task = learner("running").eval(), episode()
    predict = ours.adapt(task.support)
    alone = torch.cat([predict(x[None]) for x in task.query.x])
    torch.testing.assert_close(predict(task.query.x), alone)
    other = task._replace(query=Examples(task.query.x, task.query.y.flip(0)))
    torch.testing.assert_close(predict(task.query.x), ours.adapt(other.support)(other.query.x))


def test_one_set_of_weights_for_any_number_of_ways():
    ours = learner(ways=5)
    for ways in (2, 5, 9):
        ours.ways = ways
        assert ours.adapt(episode(ways).support)(episode(ways).query.x).shape == (4 * ways, ways)


def test_loop_and_evaluation_say_how_many_ways(glyphs):
    """Trained 7-way, validated 5-way in between; a wrong number is an error or scores classes that do not exist."""
    ours = ProtoNet(toy.conv4(), 5, F.cross_entropy)
    data = glyphs(train_ways=7)
    seen = []
    for step in fit(TrainState.create(ours, toy.adam(), torch.device("cpu"), 0), data, toy.adam(), 2, 2):
        assert step.batch.query.y.max() == 6
        seen += [ours.ways, evaluate(ours, data, "val", 2, 0).values["accuracy"].shape, ours.ways]
    assert seen == [7, (2, 1), 7] * 2


@pytest.mark.parametrize("algo", ["protonet", "siamese", "r2d2", "versa"])
def test_training_ways_may_differ_from_the_tests_ways(algo):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [f"algo={algo}", "data=synthetic", "data.train_ways=6", "tracker=none"])
    components = build(cfg, {"algo": algo, "data": "synthetic"})
    assert components.learner.ways == 5 and components.data.outputs("train") == 6


@pytest.mark.slow
def test_it_learns_glyphs(glyphs):
    torch.manual_seed(0)
    ours, data = ProtoNet(toy.conv4(norm="running", downsample="max_pool"), 5, F.cross_entropy), glyphs(train_ways=15)
    before, after = toy.score(ours, data, 100, toy.adam(3e-3), meta_batch_size=1, tasks=60)
    assert before < 0.50 and after > before + 0.15
