"""Matching networks against the paper's formulas in loops, torch's own LSTM, and likely mistakes."""

import pytest
import torch
import torch.nn.functional as F
import toy
from torch import nn

from metarun.algos.matching import MatchingNet
from metarun.tasks import Examples, Task

D = 6


def learner(fce=False, temperature=0.1, read_steps=3, ways=3, seed=0):
    torch.manual_seed(seed)
    return MatchingNet(toy.mlp((4,), hidden=[D]), ways, F.cross_entropy, temperature, fce, read_steps).double()


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([2, 0, 1, 0, 2, 2, 1])  # unordered, with class counts that differ


def embedded_support(seed=0):
    return Examples(random(len(LABELS), D, seed=seed), LABELS)


def batch():
    """Two tasks with 7 support examples and 5 queries."""
    y = torch.stack([LABELS, LABELS.flip(0)])
    return Task(Examples(random(2, 7, 4), y), Examples(random(2, 5, 4, seed=1), y[:, :5]))


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize("temperature", [1.0, 0.125])
def test_scores_are_logarithms_of_summed_attention(temperature):
    support, queries = embedded_support(), random(4, D, seed=1)
    scores = learner(temperature=temperature).head(support)(queries)
    for q, row in zip(queries, scores, strict=True):
        similar = torch.tensor([cosine(q, z) / temperature for z in support.x], dtype=torch.float64).exp()
        attention = similar / similar.sum()
        p = torch.zeros(3, dtype=torch.float64)
        for weight, label in zip(attention, support.y, strict=True):
            p[label] += weight
        torch.testing.assert_close(row.exp(), p, rtol=1e-12, atol=0)
    torch.testing.assert_close(scores.log_softmax(1), scores, rtol=1e-10, atol=1e-12)  # already normalised


def test_attention_rows_sum_to_one():
    attention = learner().log_attention(random(4, D, seed=1), embedded_support().x).exp()
    assert attention.shape == (4, 7)
    torch.testing.assert_close(attention.sum(1), torch.ones(4, dtype=torch.float64))
    assert not torch.allclose(attention.sum(0), attention.sum(0)[:1])


def test_lengths_of_embeddings_do_not_matter_without_context():
    scores, support = learner().head(embedded_support())(random(4, D, seed=1)), embedded_support()
    longer = learner().head(support._replace(x=support.x * torch.arange(1, 8)[:, None]))(5 * random(4, D, seed=1))
    torch.testing.assert_close(longer, scores, rtol=1e-10, atol=1e-12)


def test_a_probability_that_rounds_to_zero_has_a_finite_loss_and_gradient():
    """The log of a sum of exponentials that round to 0 would be minus infinity."""
    z = random(5, D, seed=1).requires_grad_()
    scores = learner(temperature=1e-4).head(embedded_support())(z)
    assert scores.min() < -1000 and scores.exp().min() == 0
    loss = F.cross_entropy(scores, scores.detach().argmin(1))
    loss.backward()
    assert loss.isfinite() and z.grad.isfinite().all() and z.grad.abs().max() > 0


def torchs_lstm(cells):
    """nn.LSTM with the weights of one or two of our cells."""
    lstm = nn.LSTM(D, D, bidirectional=len(cells) == 2).double()
    with torch.no_grad():
        for cell, end in zip(cells, ("", "_reverse"), strict=False):
            getattr(lstm, f"weight_ih_l0{end}").copy_(cell.weight_ih)
            getattr(lstm, f"weight_hh_l0{end}").copy_(cell.weight_hh)
            getattr(lstm, f"bias_ih_l0{end}").copy_(cell.bias)
            getattr(lstm, f"bias_hh_l0{end}").zero_()
    return lstm


def test_support_examples_in_context_are_torchs_bidirectional_lstm_plus_the_embeddings():
    """The backward state added to example i is the one after reading n, ..., i."""
    ours, z = learner(fce=True), embedded_support().x
    states, _ = torchs_lstm([ours.forward_lstm, ours.backward_lstm])(z)
    torch.testing.assert_close(ours.in_context(z), states[:, :D] + states[:, D:] + z, rtol=1e-12, atol=1e-14)


def test_queries_in_context_are_the_papers_loop():
    ours, g, queries = learner(fce=True, read_steps=3), embedded_support().x, random(4, D, seed=1)
    cell = ours.attention_lstm
    for query, f in zip(queries, ours.attend(queries, g), strict=True):
        h = c = torch.zeros(D, dtype=torch.float64)
        for _ in range(3):
            weights = torch.stack([h @ z for z in g]).exp()
            read = sum(w * z for w, z in zip(weights / weights.sum(), g, strict=True))
            gates = cell.weight_ih @ query + cell.weight_hh @ torch.cat([h, read]) + cell.bias
            i, forget, new, o = (gates[k * D : (k + 1) * D] for k in range(4))
            c = forget.sigmoid() * c + i.sigmoid() * new.tanh()
            h = o.sigmoid() * c.tanh() + query
        torch.testing.assert_close(f, h, rtol=1e-12, atol=1e-14)


def test_with_context_scores_compare_queries_and_support_in_context():
    ours, support, queries = learner(fce=True), embedded_support(), random(4, D, seed=1)
    g = ours.in_context(support.x)
    expected = learner(fce=False).head(support._replace(x=g))(ours.attend(queries, g))
    torch.testing.assert_close(ours.head(support)(queries), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("fce", [False, True])
def test_the_order_of_the_support_set_matters_with_context_only(fce):
    ours, support, queries = learner(fce), embedded_support(), random(4, D, seed=1)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    other = ours.head(Examples(support.x[order], support.y[order]))(queries)
    assert torch.allclose(other, ours.head(support)(queries), rtol=1e-6) is not fce
    if fce:
        assert not torch.allclose(ours.in_context(support.x[order]), ours.in_context(support.x)[order], rtol=1e-3)


def test_context_and_every_read_change_predictions():
    """With the same weights; a query's embedding depends on the support set."""
    scores = [learner().head(embedded_support())(random(4, D, seed=1))]
    scores += [learner(True, read_steps=k).head(embedded_support())(random(4, D, seed=1)) for k in (1, 2, 3)]
    assert not any(torch.allclose(a, b, rtol=1e-3) for i, a in enumerate(scores) for b in scores[:i])
    ours, queries = learner(True), random(4, D, seed=1)
    assert not torch.allclose(
        ours.attend(queries, embedded_support().x), ours.attend(queries, embedded_support(seed=5).x), rtol=1e-3
    )


@pytest.mark.parametrize("fce", [False, True])
def test_queries_do_not_affect_each_other(fce):
    predict, queries = learner(fce).head(embedded_support()), random(4, D, seed=1)
    one_by_one = torch.cat([predict(q[None]) for q in queries])
    torch.testing.assert_close(one_by_one, predict(queries), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("fce", [False, True])
def test_vmap_equals_a_loop_and_the_gradient_is_right_and_reaches_everything(fce, loss_and_gradient, slopes_agree):
    ours = learner(fce)
    vectorized = loss_and_gradient(ours, batch())
    assert all(p.grad.abs().max() > 0 for p in ours.parameters())
    ours.vectorized = False
    torch.testing.assert_close(loss_and_gradient(ours, batch()), vectorized, rtol=1e-10, atol=1e-12)
    slopes_agree(ours, batch())


def test_training_and_prediction_use_the_same_probabilities(one):
    ours, task = learner(True), one(batch())
    loss = F.cross_entropy(ours.adapt(task.support)(task.query.x), task.query.y)
    torch.testing.assert_close(ours.meta_loss(task), loss)


def test_ways_may_change_after_construction():
    ours = learner(True, ways=5)
    ours.ways = 2
    assert ours.head(Examples(embedded_support().x, LABELS % 2))(random(4, D)).shape == (4, 2)


def test_the_temperature_is_a_hyperparameter_and_there_are_lstms_with_context_only():
    assert learner().hyperparameters == ("temperature",)
    assert not any("lstm" in name for name, _ in learner().named_parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "algo.temperature must be above 0; got 0.0"),
        ({"read_steps": 0}, "algo.read_steps must be an integer of at least 1; got 0"),
        ({"read_steps": 1.5}, "algo.read_steps must be an integer of at least 1; got 1.5"),
    ],
)
def test_rejects_invalid_values(change, message):
    with pytest.raises(ValueError, match=message):
        learner(**change)
