"""VERSA against class weights sampled directly, and against wrong losses."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy
from clusters import one, tasks

from metarun.algos.versa import VERSA
from metarun.evaluation.evaluate import evaluate, evaluate_batch
from metarun.learner.prediction import Samples
from metarun.sampling import stream_generator
from metarun.tasks import Examples
from metarun.training.loop import TrainState, fit

ARGS = {"dimension": 6, "samples": 5, "log_variance": [-4.0, 1.0]}


def learner(ways=3, seed=0, **changes):
    torch.manual_seed(seed)
    return VERSA(toy.mlp((4,), hidden=[8]), ways, F.cross_entropy, **(ARGS | changes)).double()


def sample_inputs(ours, batch, seed=0):
    return ours.to_dtype(ours.random_inputs(batch, 0, stream_generator("cpu", "test", seed)))


def by_hand(ours, task):
    """Means and variances of weights and biases, class by class."""
    z = ours.net(task.support.x)
    by_class = []
    for k in range(ours.ways):
        h = z[task.support.y == k].mean(0)
        v_w, v_b = (-4.0 + 5.0 * torch.sigmoid(net(h)) for net in (ours.log_variance_w, ours.log_variance_b))
        by_class.append((ours.mean_w(h), v_w.exp(), ours.mean_b(h), v_b.exp()))
    return [torch.stack(values) for values in zip(*by_class, strict=True)]


def test_scores_are_their_mean_plus_random_inputs_times_their_deviation():
    ours, batch = learner(), tasks(shots=3)
    task, random_inputs = one(batch), sample_inputs(ours, batch)
    assert random_inputs.shape == (4, 5, 9, 3)
    w, vw, b, vb = by_hand(ours, task)
    z = ours.net(task.query.x)
    mean, variance = z @ w.T + b.T, z**2 @ vw.T + vb.T
    scores = ours.adapt(task.support, random_inputs[0])(task.query.x)
    assert isinstance(scores, Samples)
    torch.testing.assert_close(scores.values, mean + random_inputs[0] * variance.sqrt(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.adapt(task.support)(task.query.x), mean, rtol=1e-9, atol=1e-12)


def test_scores_are_distributed_as_with_sampled_weights():
    """Local reparametrisation: scores of one query have the distribution that sampled weights give them."""
    ours, batch = learner(), tasks(queries=1)
    task = one(batch)
    w, vw, b, vb = by_hand(ours, task)
    generator = torch.Generator().manual_seed(0)
    weights = w + vw.sqrt() * torch.randn(40_000, 3, 6, generator=generator).double()
    biases = b.T + vb.T.sqrt() * torch.randn(40_000, 3, generator=generator).double()
    z = ours.net(task.query.x[:1])[0]
    expected = weights @ z + biases
    ours.samples = 40_000
    scores = ours.adapt(task.support, sample_inputs(ours, batch)[0])(task.query.x).values[:, 0]
    torch.testing.assert_close(scores.mean(0), expected.mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(scores.var(0), expected.var(0), rtol=0.05, atol=0)


def test_the_loss_averages_probabilities_and_neither_scores_nor_losses():
    ours, batch = learner(), tasks()
    task, random_inputs = one(batch), sample_inputs(ours, batch)[0]
    values = ours.adapt(task.support, random_inputs)(task.query.x).values
    p = values.softmax(-1)[:, torch.arange(9), task.query.y]
    expected = -p.mean(0).log().mean()
    loss = ours.meta_loss(task, random_inputs)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    of_mean_scores = F.cross_entropy(values.mean(0), task.query.y)
    mean_of_losses = -p.log().mean()
    assert abs(loss - of_mean_scores) > 1e-3
    assert loss < mean_of_losses - 1e-3


def test_evaluation_uses_the_mean_probability_too():
    ours, batch = learner().eval(), tasks()
    random_inputs = sample_inputs(ours, batch)
    scores = evaluate_batch(ours, "classification", batch, random_inputs, 0)
    for t in range(4):
        task = one(batch, t)
        p = ours.adapt(task.support, random_inputs[t])(task.query.x).values.softmax(-1).mean(0)
        p_true = p[torch.arange(9), task.query.y]
        np.testing.assert_allclose(scores["nll"][t, 0], -p_true.log().mean().item(), rtol=1e-9)
        accuracy = (p.argmax(-1) == task.query.y).double().mean().item()
        assert scores["accuracy"][t, 0] == scores["accuracy_inductive"][t, 0] == pytest.approx(accuracy)


def test_every_support_example_affects_its_own_class_only():
    ours, task = learner(), one(tasks(shots=5))
    before = ours.adapt(task.support)(task.query.x)
    for i in range(15):
        x = task.support.x.clone()
        x[i] += 1
        change = ours.adapt(Examples(x, task.support.y))(task.query.x) - before
        k = task.support.y[i]
        assert change[:, k].abs().max() > 1e-6
        assert change[:, torch.arange(3) != k].abs().max() == 0


def test_shots_and_ways_may_differ_between_tasks():
    ours = learner(ways=3)
    for ways, shots in ((2, 1), (5, 4)):
        ours.ways = ways
        batch = tasks(shots, ways=ways)
        random_inputs = sample_inputs(ours, batch)
        assert ours.adapt(one(batch).support, random_inputs[0])(one(batch).query.x).values.shape == (5, 3 * ways, ways)


def test_the_log_variance_is_bounded():
    ours, task = learner(), one(tasks())
    for extreme, v in ((1e6, 1.0), (-1e6, -4.0)):
        for net in (ours.log_variance_w, ours.log_variance_b):
            torch.nn.init.constant_(net[-1].bias, extreme)
        z = ours.net(task.query.x)
        values = ours.adapt(task.support, torch.ones(1, 9, 3).double())(task.query.x).values[0]
        expected = (math.exp(v) * (z.square().sum(1, keepdim=True) + 1)).sqrt().expand(-1, 3)
        torch.testing.assert_close(values - ours.adapt(task.support)(task.query.x), expected)


def losses_and_gradient(ours, batch, random_inputs):
    ours.zero_grad()
    losses = ours(batch, random_inputs)
    losses.mean().backward()
    return losses.detach(), torch.cat([p.grad.flatten() for p in ours.parameters()])


def test_vmap_equals_a_loop():
    ours, batch = learner(), tasks()
    random_inputs = sample_inputs(ours, batch)
    vectorized = losses_and_gradient(ours, batch, random_inputs)
    ours.vectorized = False
    torch.testing.assert_close(losses_and_gradient(ours, batch, random_inputs), vectorized, rtol=1e-9, atol=1e-11)


def test_the_gradient_reaches_means_and_variances():
    ours, batch = learner(), tasks()
    losses_and_gradient(ours, batch, sample_inputs(ours, batch))
    assert all(p.grad.abs().max() > 0 for p in ours.parameters())


def test_random_inputs_of_another_number_of_queries_are_rejected():
    ours, batch = learner(), tasks()
    with pytest.raises(ValueError, match="random_inputs must be those of 4 queries; got those of 9"):
        ours.adapt(one(batch).support, sample_inputs(ours, batch)[0])(one(batch).query.x[:4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dimension": 0}, "algo.dimension must be an integer of at least 1; got 0"),
        ({"samples": 1.5}, "algo.samples must be an integer of at least 1; got 1.5"),
        ({"log_variance": [1.0, 1.0]}, r"algo.log_variance must be a range \[lowest, highest\] .*; got \[1.0, 1.0\]"),
    ],
)
def test_rejects_invalid_values(changes, message):
    with pytest.raises(ValueError, match=message):
        learner(**changes)


@pytest.mark.slow
def test_it_learns():
    torch.manual_seed(0)
    ours = VERSA(toy.mlp((2,)), 3, F.cross_entropy, **(ARGS | {"dimension": 16}))
    meta_optimizer = toy.adam(lr=1e-2)
    for _ in fit(TrainState.create(ours, meta_optimizer, torch.device("cpu"), 0), toy.Blobs(), meta_optimizer, 150, 6):
        pass
    assert evaluate(ours, toy.Blobs(), "test", 60, 0).estimate().mean > 0.85
