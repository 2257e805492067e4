"""Is it MANN? Against a memory of one row after the other, in plain Python; and all that would let it cheat."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy

from metarun.algos.mann import BLANK, MANN, cosines, least_used
from metarun.backbones.pixels import Pixels
from metarun.data.clusters import Clusters
from metarun.evaluation.evaluate import evaluate
from metarun.sampling import stream_generator
from metarun.tasks import Examples

NUMBERS = {"rows": 6, "width": 5, "units": 7, "heads": 2, "decay": 0.6, "sharpness": 4.0}


def learner(ways=3, d=4, seed=0, **changes):
    torch.manual_seed(seed)
    return MANN(lambda outputs: Pixels((d,), outputs, None), ways, F.cross_entropy, **(NUMBERS | changes)).double()


def clusters(**changes):
    numbers = {"dimension": 4, "noise": 0.3, "ways": 3, "shots": 1, "queries": 2, "instances": 4, "device": "cpu"}
    return Clusters(**(numbers | changes))


def shown(tasks=3, seed=0, **changes):
    batch = clusters(**changes).sample("train", "sequences", tasks, stream_generator("cpu", "mann", seed))
    return batch._replace(x=batch.x.double())


def sigmoid(v):
    return 1 / (1 + math.exp(-v))


def dot(a, b):
    return sum(p * q for p, q in zip(a, b, strict=True))


def affine(weight, bias, v):
    return [dot(row, v) + b for row, b in zip(weight, bias, strict=True)]


def lstm(ours, v, h, c):
    from_h = affine(ours.cell.weight_hh.tolist(), [0.0] * (4 * len(h)), h)
    gates = [
        a + b for a, b in zip(affine(ours.cell.weight_ih.tolist(), ours.cell.bias.tolist(), v), from_h, strict=True)
    ]
    i, f, g, o = (gates[k * len(h) : (k + 1) * len(h)] for k in range(4))
    c = [sigmoid(b) * e + sigmoid(a) * math.tanh(d) for a, b, d, e in zip(i, f, g, c, strict=True)]
    return [sigmoid(a) * math.tanh(b) for a, b in zip(o, c, strict=True)], c


def by_hand(ours, x, y, erase=True, decay=None, late=1):
    """Scores `[n, ways]` of one sequence: one head, one row, one number after the other."""
    rows, width, heads, units = ours.rows, ours.width, ours.heads, ours.controls.in_features
    decay = float(ours.decay) if decay is None else decay
    h, c, read = [0.0] * units, [0.0] * units, [0.0] * (heads * width)
    memory = [[BLANK] * width for _ in range(rows)]
    usage, reading = [0.0] * rows, [[0.0] * rows for _ in range(heads)]
    scores = []
    for t in range(len(y)):
        told = [float(t >= late and y[t - late] == k) for k in range(ours.ways)]
        h, c = lstm(ours, [*x[t], *told, *read], h, c)
        out = affine(ours.controls.weight.tolist(), ours.controls.bias.tolist(), h)
        least = sorted(range(rows), key=lambda j, usage=usage: usage[j])[:heads]
        if erase:
            memory[least[0]] = [0.0] * width
        keys, written = [], []
        for i in range(heads):
            own = out[i * (2 * width + 1) : (i + 1) * (2 * width + 1)]
            gate = sigmoid(own[-1])
            keys.append([math.tanh(v) for v in own[:width]])
            written.append([gate * reading[i][j] + (1 - gate) * (j == least[i]) for j in range(rows)])
            for j in range(rows):
                memory[j] = [m + written[i][j] * math.tanh(v) for m, v in zip(memory[j], own[width:-1], strict=True)]
        reading, read = [], []
        for i in range(heads):
            sizes = [math.sqrt(dot(keys[i], keys[i]) + 1e-12) * math.sqrt(dot(m, m) + 1e-12) for m in memory]
            e = [math.exp(float(ours.sharpness) * dot(keys[i], m) / s) for m, s in zip(memory, sizes, strict=True)]
            reading.append([v / sum(e) for v in e])
            read += [dot(reading[i], [m[k] for m in memory]) for k in range(width)]
        usage = [decay * u + sum(r[j] for r in reading) + sum(w[j] for w in written) for j, u in enumerate(usage)]
        scores.append(affine(ours.classifier.weight.tolist(), ours.classifier.bias.tolist(), [*h, *read]))
    return np.array(scores)


def far(a, b):
    return np.abs(a - b).max()


@pytest.mark.parametrize("heads", [1, 2, 6])
def test_scores_are_those_of_a_memory_read_and_written_row_by_row(heads):
    ours, batch = learner(heads=heads), shown()  # 12 steps: every row of the memory is written to again
    scores = ours.predict_sequence(batch).detach().numpy()
    for t in range(3):
        x, y = batch.x[t].tolist(), batch.y[t].tolist()
        assert far(scores[t], by_hand(ours, x, y)) < 1e-10
        # What it must not be would be seen.
        assert far(scores[t], by_hand(ours, x, y, erase=False)) > 1e-4
        assert far(scores[t], by_hand(ours, x, y, late=0)) > 1e-3
    if heads < 6:  # six heads write to all six rows, whatever the usage
        forgot_nothing = [by_hand(ours, *(leaf[t].tolist() for leaf in batch[:2]), decay=1.0) for t in range(3)]
        assert far(scores, np.stack(forgot_nothing)) > 1e-4


def test_the_rows_used_least_are_each_sequences_own_and_equals_go_by_number():
    usage = torch.tensor([[0.3, 0.1, 0.2, 0.0], [0.0, 0.5, 0.0, 0.1]])
    expected = torch.tensor([[[0, 0, 0, 1], [0, 1, 0, 0]], [[1, 0, 0, 0], [0, 0, 1, 0]]]).float()
    assert torch.equal(least_used(usage, 2), expected)
    together = torch.func.vmap(lambda u: least_used(u, 2))(usage[:, None])
    assert torch.equal(together[:, 0], expected)


def test_cosines_are_cosines_and_of_zeros_nothing():
    generator = torch.Generator().manual_seed(0)
    keys, memory = torch.randn(2, 3, 5, generator=generator), torch.randn(2, 4, 5, generator=generator)
    expected = F.cosine_similarity(keys[:, :, None], memory[:, None], dim=-1)
    torch.testing.assert_close(cosines(keys, memory), expected)
    torch.testing.assert_close(cosines(3 * keys, 0.1 * memory), expected)
    assert (cosines(keys, 0 * memory) == 0).all()


def test_a_step_uses_what_it_reads_and_writes_and_forgets_the_rest():
    """Usage grows by what each head reads (one in all) and writes, and what is old decays."""
    ours, state = learner(), learner().start(2, torch.zeros(1, dtype=torch.float64))
    assert (state.memory == 1e-6).all() and state.memory.shape == (2, 6, 5)
    assert all((leaf == 0).all() for name, leaf in state._asdict().items() if name != "memory")
    z, told = torch.randn(2, 4, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    _, first = ours.present(z, told, state)
    _, second = ours.present(-z, told, first)
    torch.testing.assert_close(first.reading.sum(-1), torch.ones(2, 2, dtype=torch.float64))
    grown = second.usage - 0.6 * first.usage
    assert (grown >= second.reading.sum(1) - 1e-12).all()
    # Write weights are between a row's one and the reading of before, whose rows sum to one: in all one a head.
    torch.testing.assert_close(grown.sum(1), torch.full((2,), 4.0, dtype=torch.float64))


def test_nothing_is_left_of_the_sequence_before():
    ours, first, second = learner(), shown(seed=1), shown(seed=2)
    alone = ours.predict_sequence(second)
    ours.predict_sequence(first)
    assert torch.equal(ours.predict_sequence(second), alone)


def test_nothing_comes_from_the_sequence_beside_it():
    ours, batch = learner(), shown()
    scores = ours.predict_sequence(batch)
    other = batch._replace(x=batch.x.clone(), y=batch.y.clone())
    other.x[0], other.y[0] = -other.x[0], (other.y[0] + 1) % 3
    changed = ours.predict_sequence(other)
    torch.testing.assert_close(changed[1:], scores[1:], rtol=1e-12, atol=1e-13)
    assert (changed[0] - scores[0]).abs().max() > 1e-3


def test_a_label_is_of_use_after_it_is_told_and_not_before():
    ours, batch = learner(), shown()
    scores = ours.predict_sequence(batch)
    for t in (0, 5, 10):
        later = batch._replace(y=batch.y.clone())
        later.y[:, t] = (later.y[:, t] + 1) % 3
        change = (ours.predict_sequence(later) - scores).abs().amax((0, 2))
        assert (change[: t + 1] == 0).all() and change[t + 1] > 1e-6


def test_a_support_set_is_followed_alone_under_vmap_too():
    ours, batch = learner().eval(), shown()

    def last(x, y):
        return ours.adapt(Examples(x[:7], y[:7]))(x[7:9])

    together = ours.map_tasks(last, batch.x, batch.y)
    torch.testing.assert_close(together[:, 0], ours.predict_sequence(batch)[:, 7], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(together, ours.map_tasks_sequentially(last, batch.x, batch.y), rtol=1e-10, atol=1e-12)


def test_the_gradient_is_right_and_reaches_everything(slopes_agree):
    ours, batch = learner(), shown()
    slopes_agree(ours, batch)
    assert all(p.grad.abs().max() > 0 for p in ours.parameters())


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"rows": 0}, "rows must be a whole number of at least 1, got 0"),
        ({"width": 1.5}, "width must be a whole number of at least 1, got 1.5"),
        ({"units": True}, "units must be a whole number of at least 1, got True"),
        ({"heads": 7}, "heads must be at most rows=6, .* got 7"),
        ({"decay": 1.0}, "decay must be at least 0 and below 1; got 1.0"),
        ({"sharpness": 0.0}, "sharpness must be above 0, got 0.0"),
    ],
)
def test_refuses_what_makes_no_sense(bad, says):
    with pytest.raises(ValueError, match=says):
        learner(**bad)


@pytest.fixture(scope="module")
def trained():
    """Accuracy of the 2nd instance before training, and all of its figures after it."""
    data = clusters(dimension=8, noise=0.1, ways=2, instances=6)
    numbers = {"rows": 16, "width": 12, "units": 48, "heads": 2, "decay": 0.95, "sharpness": 8.0}
    ours = learner(ways=2, d=8, **numbers).float()
    before, _ = toy.score(ours, data, 250, toy.adam(lr=5e-3), meta_batch_size=16, tasks=60)
    scores = evaluate(ours, data, "test", 200, 0)
    return before, {name: scores.values[name].mean() for name in scores.metrics}


def test_it_learns_and_unlearned_it_fails(trained):
    before, after = trained
    assert before < 0.62
    assert after["instance_2"] > 0.80 and after["instance_6"] > 0.85


def test_a_class_that_was_not_seen_yet_is_guessed_by_elimination_at_best(trained):
    ceiling = (1 + 1 / 2) / 2  # (1/N) sum_k 1/k: only with labels told too early is there more
    assert 0.65 < trained[1]["instance_1"] < ceiling + 0.04
