"""MANN against a memory updated row by row in plain Python, and against everything that would let it cheat."""

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

ARGS = {"rows": 6, "width": 5, "units": 7, "heads": 2, "decay": 0.6, "sharpness": 4.0}


def learner(ways=3, d=4, seed=0, **changes):
    torch.manual_seed(seed)
    return MANN(lambda outputs: Pixels((d,), outputs, None), ways, F.cross_entropy, **(ARGS | changes)).double()


def clusters(**changes):
    kwargs = {"dimension": 4, "noise": 0.3, "ways": 3, "shots": 1, "queries": 2, "instances": 4, "device": "cpu"}
    return Clusters(**(kwargs | changes))


def sequences(tasks=3, seed=0, **changes):
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
    """Scores `[n, ways]` of one sequence, head by head, row by row, number by number."""
    rows, width, heads, units = ours.rows, ours.width, ours.heads, ours.controls.in_features
    decay = float(ours.decay) if decay is None else decay
    h, c, read = [0.0] * units, [0.0] * units, [0.0] * (heads * width)
    memory = [[BLANK] * width for _ in range(rows)]
    usage, read_weights = [0.0] * rows, [[0.0] * rows for _ in range(heads)]
    scores = []
    for t in range(len(y)):
        label = [float(t >= late and y[t - late] == k) for k in range(ours.ways)]
        h, c = lstm(ours, [*x[t], *label, *read], h, c)
        out = affine(ours.controls.weight.tolist(), ours.controls.bias.tolist(), h)
        least = sorted(range(rows), key=lambda j, usage=usage: usage[j])[:heads]
        if erase:
            memory[least[0]] = [0.0] * width
        keys, write_weights = [], []
        for i in range(heads):
            controls = out[i * (2 * width + 1) : (i + 1) * (2 * width + 1)]
            gate = sigmoid(controls[-1])
            keys.append([math.tanh(v) for v in controls[:width]])
            write_weights.append([gate * read_weights[i][j] + (1 - gate) * (j == least[i]) for j in range(rows)])
            added = [math.tanh(v) for v in controls[width:-1]]
            for j in range(rows):
                memory[j] = [m + write_weights[i][j] * a for m, a in zip(memory[j], added, strict=True)]
        read_weights, read = [], []
        for i in range(heads):
            sizes = [math.sqrt(dot(keys[i], keys[i]) * dot(m, m) + 1e-6) for m in memory]
            e = [math.exp(float(ours.sharpness) * dot(keys[i], m) / s) for m, s in zip(memory, sizes, strict=True)]
            read_weights.append([v / sum(e) for v in e])
            read += [dot(read_weights[i], [m[k] for m in memory]) for k in range(width)]
        usage = [
            decay * u + sum(r[j] for r in read_weights) + sum(w[j] for w in write_weights) for j, u in enumerate(usage)
        ]
        scores.append(affine(ours.classifier.weight.tolist(), ours.classifier.bias.tolist(), [*h, *read]))
    return np.array(scores)


def max_difference(a, b):
    return np.abs(a - b).max()


@pytest.mark.parametrize("heads", [1, 2, 6])
def test_scores_are_those_of_a_memory_read_and_written_row_by_row(heads):
    ours, batch = learner(heads=heads), sequences()  # 12 steps: every row of the memory is overwritten
    scores = ours.predict_sequence(batch).detach().numpy()
    for t in range(3):
        x, y = batch.x[t].tolist(), batch.y[t].tolist()
        assert max_difference(scores[t], by_hand(ours, x, y)) < 1e-10
        # The comparison detects wrong variants.
        assert max_difference(scores[t], by_hand(ours, x, y, erase=False)) > 1e-4
        assert max_difference(scores[t], by_hand(ours, x, y, late=0)) > 1e-3
    if heads < 6:  # six heads write to all six rows, whatever the usage
        without_decay = [by_hand(ours, *(leaf[t].tolist() for leaf in batch[:2]), decay=1.0) for t in range(3)]
        assert max_difference(scores, np.stack(without_decay)) > 1e-4


def test_least_used_rows_are_per_sequence_and_ties_go_to_the_lower_index():
    usage = torch.tensor([[0.3, 0.1, 0.2, 0.0], [0.0, 0.5, 0.0, 0.1]])
    expected = torch.tensor([[[0, 0, 0, 1], [0, 1, 0, 0]], [[1, 0, 0, 0], [0, 0, 1, 0]]]).float()
    assert torch.equal(least_used(usage, 2), expected)
    vectorized = torch.func.vmap(lambda u: least_used(u, 2))(usage[:, None])
    assert torch.equal(vectorized[:, 0], expected)


def test_cosines_are_cosines_and_zero_for_rows_of_zeros():
    generator = torch.Generator().manual_seed(0)
    keys, memory = torch.randn(2, 3, 5, generator=generator), torch.randn(2, 4, 5, generator=generator)
    expected = F.cosine_similarity(keys[:, :, None], memory[:, None], dim=-1)
    torch.testing.assert_close(cosines(keys, memory), expected)
    torch.testing.assert_close(cosines(3 * keys, 0.1 * memory), expected)
    assert (cosines(keys, 0 * memory) == 0).all()


def test_a_blank_row_resembles_no_key():
    """The reference's cosine, k . M / sqrt(|k|^2 |M|^2 + 1e-6), in numpy: nearly 0 for a blank row."""
    keys = np.random.default_rng(0).uniform(-1, 1, (1, 3, 40))
    memory = np.full((1, 2, 40), BLANK)
    memory[0, 1] = keys[0, 0]
    products = np.einsum("mrw,mnw->mrn", keys, memory)
    squares = (keys**2).sum(2)[:, :, None] * (memory**2).sum(2)[:, None, :]
    ours = cosines(torch.from_numpy(keys), torch.from_numpy(memory)).numpy()
    assert max_difference(ours, products / np.sqrt(squares + 1e-6)) < 1e-12
    assert np.abs(ours[..., 0]).max() < 0.02 and ours[0, 0, 1] > 0.999
    assert max_difference(cosines(torch.ones(1, 1, 40), torch.full((1, 1, 40), BLANK)).numpy(), 0.04) < 1e-3


def test_usage_grows_by_read_and_write_weights_and_decays():
    """The read weights of each head sum to one, and so do its write weights."""
    ours, state = learner(), learner().start(2, torch.zeros(1, dtype=torch.float64))
    assert (state.memory == 1e-6).all() and state.memory.shape == (2, 6, 5)
    assert all((leaf == 0).all() for name, leaf in state._asdict().items() if name != "memory")
    z, previous_y = torch.randn(2, 4, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    _, first = ours.present(z, previous_y, state)
    _, second = ours.present(-z, previous_y, first)
    torch.testing.assert_close(first.read_weights.sum(-1), torch.ones(2, 2, dtype=torch.float64))
    growth = second.usage - 0.6 * first.usage
    assert (growth >= second.read_weights.sum(1) - 1e-12).all()
    # Write weights blend a one-hot row with the previous read weights, so they sum to one per head.
    torch.testing.assert_close(growth.sum(1), torch.full((2,), 4.0, dtype=torch.float64))


def test_no_state_carries_over_between_sequences():
    ours, first, second = learner(), sequences(seed=1), sequences(seed=2)
    before = ours.predict_sequence(second)
    ours.predict_sequence(first)
    assert torch.equal(ours.predict_sequence(second), before)


def test_sequences_of_a_batch_do_not_affect_each_other():
    ours, batch = learner(), sequences()
    scores = ours.predict_sequence(batch)
    other = batch._replace(x=batch.x.clone(), y=batch.y.clone())
    other.x[0], other.y[0] = -other.x[0], (other.y[0] + 1) % 3
    changed = ours.predict_sequence(other)
    torch.testing.assert_close(changed[1:], scores[1:], rtol=1e-12, atol=1e-13)
    assert (changed[0] - scores[0]).abs().max() > 1e-3


def test_a_label_affects_the_scores_after_its_step_only():
    ours, batch = learner(), sequences()
    scores = ours.predict_sequence(batch)
    for t in (0, 5, 10):
        changed = batch._replace(y=batch.y.clone())
        changed.y[:, t] = (changed.y[:, t] + 1) % 3
        change = (ours.predict_sequence(changed) - scores).abs().amax((0, 2))
        assert (change[: t + 1] == 0).all() and change[t + 1] > 1e-6


def test_adapt_agrees_with_predict_sequence_under_vmap_too():
    ours, batch = learner().eval(), sequences()

    def last(x, y):
        return ours.adapt(Examples(x[:7], y[:7]))(x[7:9])

    vectorized = ours.map_tasks(last, batch.x, batch.y)
    torch.testing.assert_close(vectorized[:, 0], ours.predict_sequence(batch)[:, 7], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(vectorized, ours.map_tasks_sequentially(last, batch.x, batch.y), rtol=1e-10, atol=1e-12)


def test_the_gradient_is_right_and_reaches_everything(slopes_agree):
    ours, batch = learner(), sequences()
    slopes_agree(ours, batch)
    assert all(p.grad.abs().max() > 0 for p in ours.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 0}, "algo.rows must be an integer of at least 1; got 0"),
        ({"width": 1.5}, "algo.width must be an integer of at least 1; got 1.5"),
        ({"units": True}, "algo.units must be an integer of at least 1; got True"),
        ({"heads": 7}, "algo.heads must be at most algo.rows=6, .*; got 7"),
        ({"decay": 1.0}, "algo.decay must be at least 0 and below 1; got 1.0"),
        ({"sharpness": 0.0}, "algo.sharpness must be above 0; got 0.0"),
    ],
)
def test_rejects_invalid_values(changes, message):
    with pytest.raises(ValueError, match=message):
        learner(**changes)


@pytest.fixture(scope="module")
def trained():
    """Accuracy on 2nd instances before training, and all accuracies after it."""
    data = clusters(dimension=8, noise=0.1, ways=2, instances=6)
    kwargs = {"rows": 16, "width": 12, "units": 48, "heads": 2, "decay": 0.95, "sharpness": 8.0}
    ours = learner(ways=2, d=8, **kwargs).float()
    before, _ = toy.score(ours, data, 400, toy.adam(lr=5e-3), meta_batch_size=16, tasks=60)
    scores = evaluate(ours, data, "test", 200, 0)
    return before, {name: scores.values[name].mean() for name in scores.metrics}


@pytest.mark.slow
def test_it_learns_and_untrained_it_fails(trained):
    before, after = trained
    assert before < 0.62
    assert after["instance_2"] > 0.80 and after["instance_6"] > 0.85


@pytest.mark.slow
def test_an_unseen_class_is_guessed_by_elimination_at_best(trained):
    ceiling = (1 + 1 / 2) / 2  # (1/N) sum_k 1/k; higher only if labels are available too early
    assert 0.65 < trained[1]["instance_1"] < ceiling + 0.04
