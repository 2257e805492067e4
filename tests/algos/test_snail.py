"""Is it SNAIL? Against sequences read one by one by plain convolutions and attention; and what would let it cheat."""

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

NUMBERS = {"embedding": 5, "attention": [[4, 3], [6, 2]], "filters": 3, "shots": 2}


def learner(ways=3, seed=0, in_shape=(4,), hidden=8, **changes):
    torch.manual_seed(seed)
    return SNAIL(toy.mlp(in_shape, hidden=[hidden]), ways, F.cross_entropy, **(NUMBERS | changes)).double()


def drawn(ours, batch, seed=0):
    return ours.random_inputs(batch, 0, stream_generator("cpu", "snail", seed))


def attend(layer, x):
    """One sequence `[t, channels]`; item t asks those up to t."""
    rows = []
    for t in range(len(x)):
        asked = x[: t + 1]
        scores = layer.keys(asked) @ layer.queries(x[t]) / math.sqrt(layer.keys.out_features)
        rows.append(torch.cat([x[t], scores.softmax(0) @ layer.values(asked)]))
    return torch.stack(rows)


def convolve(layer, x):
    for i, block in enumerate(layer):
        weight = block.convolution.weight.unflatten(1, (2, x.shape[1])).mT
        out = F.conv1d(F.pad(x.T[None], (2**i, 0)), weight, block.convolution.bias, dilation=2**i)[0].T
        value, gate = out.chunk(2, 1)
        x = torch.cat([x, value.tanh() * gate.sigmoid()], 1)
    return x


def by_hand(ours, task, order):
    """Class scores `[m, ways]`: a sequence for each query."""
    rows = []
    for query in ours.net(task.query.x):
        known = zip(ours.net(task.support.x), task.support.y, strict=True)
        shown = [torch.cat([z, F.one_hot(y, ours.ways).to(z)]) for z, y in known]
        x = torch.stack([*(shown[i] for i in order), torch.cat([query, torch.zeros(ours.ways).to(query)])])
        for layer in ours.layers:
            x = attend(layer, x) if isinstance(layer, CausalAttention) else convolve(layer, x)
        rows.append(ours.classifier(x[-1]))
    return torch.stack(rows)


@pytest.mark.parametrize("shots", [1, 2, 5])  # fewer than the convolutions span, as many, and more
def test_scores_are_those_of_sequences_read_one_by_one(shots):
    ours, batch = learner(), tasks(shots)
    random_inputs = drawn(ours, batch)
    for t in range(4):
        scores = ours.adapt(one(batch, t).support, random_inputs[t])(one(batch, t).query.x)
        torch.testing.assert_close(
            scores, by_hand(ours, one(batch, t), random_inputs[t].tolist()), rtol=1e-9, atol=1e-11
        )


def test_the_support_set_is_shown_in_an_order_that_is_drawn_for_each_task():
    ours, batch = learner(), tasks(count=50)
    for mode in (ours.train, ours.eval):
        mode()
        random_inputs = drawn(ours, batch)
        assert random_inputs.shape == (50, 6) and torch.equal(
            random_inputs.sort(1).values, torch.arange(6).expand(50, 6)
        )
        assert len({tuple(row) for row in random_inputs.tolist()}) > 40
        assert (random_inputs.double().mean(0) - 2.5).abs().max() < 1  # any example may come first
    task = one(batch)
    shuffled = task._replace(support=Examples(*(leaf[random_inputs[0]] for leaf in task.support)))
    told, plain = ours.adapt(task.support, random_inputs[0])(task.query.x), ours.adapt(task.support)(task.query.x)
    torch.testing.assert_close(told, ours.adapt(shuffled.support)(task.query.x))
    assert (told - plain).abs().max() > 1e-4  # the order is seen


def test_items_are_embeddings_with_labels_and_a_query_has_none():
    ours, task, seen = learner(), one(tasks()), []
    ours.layers[0].register_forward_hook(lambda _module, inputs, _out: seen.append(inputs))
    ours.meta_loss(task)
    ((x, n),) = seen
    assert x.shape == (6 + 9, 5 + 3) and n == 6
    torch.testing.assert_close(x[:, :5], ours.net(torch.cat([task.support.x, task.query.x])))
    assert torch.equal(x[:6, 5:], F.one_hot(task.support.y, 3).double())
    assert (x[6:, 5:] == 0).all()


def test_the_loss_is_of_the_queries_steps_alone_and_their_labels_reach_nothing_else():
    ours, batch, scored = learner(), tasks(), []
    ours.vectorized, random_inputs = False, drawn(ours, batch)
    handle = ours.classifier.register_forward_hook(lambda _module, _inputs, out: scored.append(out))
    losses = ours(batch, random_inputs)
    ours(batch._replace(query=batch.query._replace(y=(batch.query.y + 1) % 3)), random_inputs)
    handle.remove()
    for t in range(4):
        assert scored[t].shape == (9, 3) and torch.equal(scored[t], scored[4 + t])
        expected = F.cross_entropy(by_hand(ours, one(batch, t), random_inputs[t].tolist()), one(batch, t).query.y)
        torch.testing.assert_close(losses[t], expected, rtol=1e-9, atol=1e-11)


def test_queries_do_not_see_each_other_but_the_whole_support_set():
    ours, task = learner(), one(tasks())
    scores = ours.adapt(task.support)(task.query.x)
    alone = torch.cat([ours.adapt(task.support)(x[None]) for x in task.query.x])
    torch.testing.assert_close(alone, scores, rtol=1e-10, atol=1e-12)
    for i in range(6):
        x, y = task.support.x.clone(), task.support.y.clone()
        x[i] += 1
        assert (ours.adapt(Examples(x, task.support.y))(task.query.x) - scores).abs().max() > 1e-6
        y[i] = (y[i] + 1) % 3
        assert (ours.adapt(Examples(task.support.x, y))(task.query.x) - scores).abs().max() > 1e-6


def test_no_item_changes_one_before_it():
    """Of the last layer's outputs, with all layers before it."""
    ours, task, out = learner(), one(tasks()), []
    ours.layers[-1].register_forward_hook(lambda _module, _inputs, result: out.append(result))
    ours.adapt(task.support)(task.query.x)
    for t in range(6):
        x = task.support.x.clone()
        x[t] += 1
        ours.adapt(Examples(x, task.support.y))(task.query.x)
        changed = (out[-1] - out[0]).abs().amax(1)
        assert (changed[:t] == 0).all() and (changed[t:] > 0).all()
    x = task.query.x.clone()
    x[3] += 1
    ours.adapt(task.support)(x)
    changed = (out[-1] - out[0]).abs().amax(1) > 0
    assert changed.nonzero().flatten().tolist() == [6 + 3]


def test_convolutions_span_the_sequence_and_no_more():
    for ways, shots, layers in ((5, 1, 3), (3, 1, 2), (3, 2, 3), (5, 5, 5), (20, 1, 5), (20, 5, 7), (4, 4, 5)):
        (blocks,) = [layer for layer in learner(ways, shots=shots).layers if not isinstance(layer, CausalAttention)]
        assert len(blocks) == layers == math.ceil(math.log2(ways * shots + 1))


def losses_and_gradient(ours, batch, random_inputs):
    ours.zero_grad()
    losses = ours(batch, random_inputs)
    losses.mean().backward()
    return losses.detach(), torch.cat([p.grad.flatten() for p in ours.parameters()])


def test_vmap_is_a_loop_and_the_gradient_is_right_and_reaches_everything(slopes_agree):
    ours, batch = learner(), tasks()
    random_inputs = drawn(ours, batch)
    together = losses_and_gradient(ours, batch, random_inputs)
    ours.vectorized = False
    torch.testing.assert_close(losses_and_gradient(ours, batch, random_inputs), together, rtol=1e-9, atol=1e-11)
    slopes_agree(ours, batch)
    assert all(p.grad.abs().max() > 0 for p in ours.parameters())


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", ["algo=snail", "data=omniglot", "tracker=none", *overrides])


def test_widths_are_the_papers_and_shots_are_the_datas():
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
    ("bad", "says"),
    [
        ({"embedding": 0}, "embedding must be a whole number of at least 1, got 0"),
        ({"filters": 1.5}, "filters must be a whole number of at least 1, got 1.5"),
        ({"shots": 0}, "shots must be a whole number of at least 1, got 0"),
        ({"attention": []}, r"attention must be a list of \[keys, values\], at least one; got \[\]"),
        ({"attention": [[4, 3], [4]]}, r"attention must be a list of \[keys, values\], at least one; got"),
        ({"attention": [[4, 0]]}, "attention_values must be a whole number of at least 1, got 0"),
    ],
)
def test_refuses_what_makes_no_sense(bad, says):
    with pytest.raises(ValueError, match=says):
        learner(**bad)


def test_it_learns_and_then_the_order_matters_little():
    ours = learner(in_shape=(2,), hidden=16, embedding=16, attention=[[16, 16], [16, 16]], filters=16).float()
    before, after = toy.score(ours, toy.Blobs(), 200, toy.adam(lr=5e-3), meta_batch_size=16, tasks=60)
    assert before < 0.5
    assert after > 0.85
    ours.eval()
    batch = toy.Blobs().sample("test", "episodes", 200, stream_generator("cpu", "order"))
    orders = drawn(ours, batch), drawn(ours, batch, seed=1)

    def scores(order):
        return ours.map_tasks(lambda task, order: ours.adapt(task.support, order)(task.query.x), batch, order)

    first, second = map(scores, orders)
    assert (first - second).abs().max() > 0.01
    right, again = ((s.argmax(-1) == batch.query.y).double().mean() for s in (first, second))
    assert abs(right - again) < 0.03
