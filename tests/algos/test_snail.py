"""SNAIL against sequences processed one by one by plain convolutions and attention, and what would let it cheat."""

import math

import pytest
import torch
import torch.nn.functional as F
import toy
from clusters import one, tasks
from hydra import compose, initialize_config_dir

from metarun.algos.snail import SNAIL
from metarun.experiment.build import build
from metarun.experiment.choices import CONF
from metarun.experiment.errors import ConfigError
from metarun.layers.causal import CausalAttention
from metarun.sampling import stream_generator
from metarun.tasks import Examples

ARGS = {"embedding": 5, "attention": [[4, 3], [6, 2]], "filters": 3, "shots": 2}


def learner(ways=3, seed=0, in_shape=(4,), hidden=8, **changes):
    torch.manual_seed(seed)
    return SNAIL(toy.mlp(in_shape, hidden=[hidden]), ways, F.cross_entropy, **(ARGS | changes)).double()


def sample_inputs(ours, batch, seed=0):
    return ours.random_inputs(batch, 0, stream_generator("cpu", "snail", seed))


def attend(layer, x):
    """Attention over one sequence `[t, channels]`; item t attends to those up to t."""
    rows = []
    for t in range(len(x)):
        visible = x[: t + 1]
        scores = layer.keys(visible) @ layer.queries(x[t]) / math.sqrt(layer.keys.out_features)
        rows.append(torch.cat([x[t], scores.softmax(0) @ layer.values(visible)]))
    return torch.stack(rows)


def convolve(layer, x):
    for i, block in enumerate(layer):
        weight = block.convolution.weight.unflatten(1, (2, x.shape[1])).mT
        out = F.conv1d(F.pad(x.T[None], (2**i, 0)), weight, block.convolution.bias, dilation=2**i)[0].T
        value, gate = out.chunk(2, 1)
        x = torch.cat([x, value.tanh() * gate.sigmoid()], 1)
    return x


def by_hand(ours, task, order):
    """Class scores `[m, ways]`, from one sequence for each query."""
    rows = []
    for query in ours.net(task.query.x):
        support = zip(ours.net(task.support.x), task.support.y, strict=True)
        items = [torch.cat([z, F.one_hot(y, ours.ways).to(z)]) for z, y in support]
        x = torch.stack([*(items[i] for i in order), torch.cat([query, torch.zeros(ours.ways).to(query)])])
        for layer in ours.layers:
            x = attend(layer, x) if isinstance(layer, CausalAttention) else convolve(layer, x)
        rows.append(ours.classifier(x[-1]))
    return torch.stack(rows)


@pytest.mark.parametrize("shots", [1, 2, 5])  # fewer than the convolutions span, as many, and more
def test_scores_are_those_of_sequences_processed_one_by_one(shots):
    ours, batch = learner(), tasks(shots)
    random_inputs = sample_inputs(ours, batch)
    for t in range(4):
        task, order = one(batch, t), random_inputs[t]
        scores = ours.adapt(task.support, order)(task.query.x)
        torch.testing.assert_close(scores, by_hand(ours, task, order.tolist()), rtol=1e-9, atol=1e-11)


def test_the_order_of_the_support_set_is_sampled_for_each_task():
    ours, batch = learner(), tasks(count=50)
    for mode in (ours.train, ours.eval):
        mode()
        random_inputs = sample_inputs(ours, batch)
        assert random_inputs.shape == (50, 6)
        assert torch.equal(random_inputs.sort(1).values, torch.arange(6).expand(50, 6))
        assert len({tuple(row) for row in random_inputs.tolist()}) > 40
        assert (random_inputs.double().mean(0) - 2.5).abs().max() < 1  # any example may come first
    task = one(batch)
    shuffled = task._replace(support=Examples(*(leaf[random_inputs[0]] for leaf in task.support)))
    with_order = ours.adapt(task.support, random_inputs[0])(task.query.x)
    torch.testing.assert_close(with_order, ours.adapt(shuffled.support)(task.query.x))
    assert (with_order - ours.adapt(task.support)(task.query.x)).abs().max() > 1e-4  # the order matters


def test_items_are_embeddings_with_labels_and_a_query_has_none():
    ours, task, calls = learner(), one(tasks()), []
    ours.layers[0].register_forward_hook(lambda _module, inputs, _out: calls.append(inputs))
    ours.meta_loss(task)
    ((x, n),) = calls
    assert x.shape == (6 + 9, 5 + 3) and n == 6
    torch.testing.assert_close(x[:, :5], ours.net(torch.cat([task.support.x, task.query.x])))
    assert torch.equal(x[:6, 5:], F.one_hot(task.support.y, 3).double())
    assert (x[6:, 5:] == 0).all()


def test_the_loss_is_that_of_the_last_items_and_query_labels_do_not_affect_scores():
    ours, batch, scores = learner(), tasks(), []
    ours.vectorized, random_inputs = False, sample_inputs(ours, batch)
    handle = ours.classifier.register_forward_hook(lambda _module, _inputs, out: scores.append(out))
    losses = ours(batch, random_inputs)
    ours(batch._replace(query=batch.query._replace(y=(batch.query.y + 1) % 3)), random_inputs)
    handle.remove()
    for t in range(4):
        assert scores[t].shape == (9, 3) and torch.equal(scores[t], scores[4 + t])
        expected = F.cross_entropy(by_hand(ours, one(batch, t), random_inputs[t].tolist()), one(batch, t).query.y)
        torch.testing.assert_close(losses[t], expected, rtol=1e-9, atol=1e-11)


def test_a_query_sees_the_whole_support_set_and_no_other_query():
    ours, task = learner(), one(tasks())
    scores = ours.adapt(task.support)(task.query.x)
    one_by_one = torch.cat([ours.adapt(task.support)(x[None]) for x in task.query.x])
    torch.testing.assert_close(one_by_one, scores, rtol=1e-10, atol=1e-12)
    for i in range(6):
        x, y = task.support.x.clone(), task.support.y.clone()
        x[i] += 1
        assert (ours.adapt(Examples(x, task.support.y))(task.query.x) - scores).abs().max() > 1e-6
        y[i] = (y[i] + 1) % 3
        assert (ours.adapt(Examples(task.support.x, y))(task.query.x) - scores).abs().max() > 1e-6


def test_no_item_affects_earlier_items():
    """In the outputs of the last layer, hence through all layers."""
    ours, task, outputs = learner(), one(tasks()), []
    ours.layers[-1].register_forward_hook(lambda _module, _inputs, out: outputs.append(out))
    ours.adapt(task.support)(task.query.x)
    for t in range(6):
        x = task.support.x.clone()
        x[t] += 1
        ours.adapt(Examples(x, task.support.y))(task.query.x)
        change = (outputs[-1] - outputs[0]).abs().amax(1)
        assert (change[:t] == 0).all() and (change[t:] > 0).all()
    x = task.query.x.clone()
    x[3] += 1
    ours.adapt(task.support)(x)
    change = (outputs[-1] - outputs[0]).abs().amax(1)
    assert (change > 0).nonzero().flatten().tolist() == [6 + 3]


def test_convolutions_span_the_sequence_and_no_more():
    for ways, shots, layers in ((5, 1, 3), (3, 1, 2), (3, 2, 3), (5, 5, 5), (20, 1, 5), (20, 5, 7), (4, 4, 5)):
        (blocks,) = [layer for layer in learner(ways, shots=shots).layers if not isinstance(layer, CausalAttention)]
        assert len(blocks) == layers == math.ceil(math.log2(ways * shots + 1))


def losses_and_gradient(ours, batch, random_inputs):
    ours.zero_grad()
    losses = ours(batch, random_inputs)
    losses.mean().backward()
    return losses.detach(), torch.cat([p.grad.flatten() for p in ours.parameters()])


def test_vmap_equals_a_loop_and_the_gradient_is_right_and_reaches_everything(slopes_agree):
    ours, batch = learner(), tasks()
    random_inputs = sample_inputs(ours, batch)
    vectorized = losses_and_gradient(ours, batch, random_inputs)
    ours.vectorized = False
    torch.testing.assert_close(losses_and_gradient(ours, batch, random_inputs), vectorized, rtol=1e-9, atol=1e-11)
    slopes_agree(ours, batch)
    assert all(p.grad.abs().max() > 0 for p in ours.parameters())


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", ["algo=snail", "data=omniglot", "tracker=none", *overrides])


def test_widths_are_the_papers_and_shots_those_of_the_data():
    choices = {"algo": "snail", "data": "omniglot", "backbone": "conv4_embedding"}
    for shots, layers, widths in ((1, 3, (69, 485, 997)), (5, 5, (69, 741, 1509))):
        ours = build(composed(f"data.shots={shots}"), choices).learner
        attention = [layer for layer in ours.layers if isinstance(layer, CausalAttention)]
        assert [layer.keys.in_features for layer in attention] == list(widths)
        assert [(a.keys.out_features, a.values.out_features) for a in attention] == [(64, 32), (256, 128), (512, 256)]
        assert [len(layer) for layer in ours.layers if layer not in attention] == [layers, layers]
        assert ours.classifier.in_features == widths[-1] + 256 and ours.classifier.out_features == 5
    with pytest.raises(ConfigError, match="data.train_ways must be data.ways=5 for algo=snail"):
        build(composed("data.train_ways=20"), choices)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding": 0}, "algo.embedding must be an integer of at least 1; got 0"),
        ({"filters": 1.5}, "algo.filters must be an integer of at least 1; got 1.5"),
        ({"shots": 0}, "algo.shots must be an integer of at least 1; got 0"),
        ({"attention": []}, r"algo.attention must be a list of at least one \[keys, values\], .*; got \[\]"),
        ({"attention": [[4, 3], [4]]}, r"algo.attention must be a list of .*; got \[\[4, 3\], \[4\]\]"),
        ({"attention": [[4, 0]]}, r"algo.attention must be .*, integers of at least 1; got \[\[4, 0\]\]"),
    ],
)
def test_rejects_invalid_values(changes, message):
    with pytest.raises(ValueError, match=message):
        learner(**changes)


@pytest.mark.slow
def test_it_learns_and_then_the_order_matters_little():
    ours = learner(in_shape=(2,), hidden=16, embedding=16, attention=[[16, 16], [16, 16]], filters=16).float()
    before, after = toy.score(ours, toy.Blobs(), 200, toy.adam(lr=5e-3), meta_batch_size=16, tasks=60)
    assert before < 0.5
    assert after > 0.85
    ours.eval()
    batch = toy.Blobs().sample("test", "episodes", 200, stream_generator("cpu", "order"))
    orders = sample_inputs(ours, batch), sample_inputs(ours, batch, seed=1)

    def scores(order):
        return ours.map_tasks(lambda task, order: ours.adapt(task.support, order)(task.query.x), batch, order)

    first, second = map(scores, orders)
    assert (first - second).abs().max() > 0.01
    accuracies = [(s.argmax(-1) == batch.query.y).double().mean() for s in (first, second)]
    assert abs(accuracies[0] - accuracies[1]) < 0.03
