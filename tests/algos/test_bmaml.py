"""BMAML against its steps and its chaser loss written out by hand; EMAML against as many MAMLs."""

import pytest
import torch
import torch.nn.functional as F
import toy
from torch.func import functional_call

from metarun.algos import bmaml
from metarun.algos.bmaml import BMAML
from metarun.algos.maml import MAML
from metarun.learner.prediction import Samples
from metarun.numerics.svgd import direction, squared_distances
from metarun.tasks import Examples

KINDS = ["mlp", "conv4"]
ARGS = {"particles": 4, "ensemble": False, "inner_lr": 1e-3, "inner_steps": 2, "eval_steps": 2, "first_order": False}
ARGS |= {"leader_lr": 2e-3, "leader_steps": 3, "noise_precision": [4.0, 2.0, 0.2]}
ARGS |= {"weight_precision": [1.5, 2.0, 2.0], "precision_rate": 0.5}


@pytest.fixture
def learner(make):
    return lambda kind, **changes: make(BMAML, kind, **(ARGS | changes))


def particle(theta, m):
    return {name: p[m] for name, p in theta.items()}


def log_posterior(ours, theta, examples):
    """log p(D, theta) of one particle up to a constant, written out."""
    weights = {name: p for name, p in theta.items() if not name.startswith("log_")}
    output = functional_call(ours.net, weights, (examples.x,))
    w = torch.cat([p.flatten() for p in weights.values()])
    lam = theta["log_lambda"].exp()
    total = 0.5 * len(w) * lam.log() - 0.5 * lam * w.square().sum() + 2.0 * lam.log() - 2.0 * lam
    if "log_gamma" in theta:
        gamma = theta["log_gamma"].exp()
        total = total + 2.0 * gamma.log() - 0.2 * gamma
        return total + (0.5 * gamma.log() - 0.5 * gamma * (output - examples.y).square()).sum()
    return total - F.cross_entropy(output, examples.y, reduction="sum")


def svgd_by_hand(ours, theta, examples, steps, rate, constant=False):
    """SVGD by autograd, particle by particle (`direction` has tests of its own)."""
    for _ in range(steps):
        by_particle = []
        for m in range(len(theta["log_lambda"])):
            theta_m = particle(theta, m)
            value = log_posterior(ours, theta_m, examples)
            gradient = torch.autograd.grad(value, list(theta_m.values()), create_graph=True)
            by_particle.append([g.detach() if constant else g for g in gradient])
        gradients = {name: torch.stack(rows) for name, rows in zip(theta, zip(*by_particle, strict=True), strict=True)}
        phi = direction(theta, gradients)
        rates = {name: rate * (0.5 if name.startswith("log_") else 1.0) for name in theta}
        theta = {name: p + rates[name] * phi[name] for name, p in theta.items()}
    return theta


def chaser(ours, task, constant=False):
    """The chaser loss of one task; no gradient flows into the leader."""
    follower = svgd_by_hand(ours, ours.initial_particles(), task.support, 2, ours.inner_lr, constant)
    both = Examples(*(torch.cat(leaves) for leaves in zip(task.support, task.query, strict=True)))
    leader = svgd_by_hand(ours, {n: p.detach().requires_grad_() for n, p in follower.items()}, both, 3, ours.leader_lr)
    weights = [name for name in follower if not name.startswith("log_")]
    return sum((follower[name] - leader[name].detach()).square().sum() for name in weights)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_are_those_of_the_chaser_loss(learner, draw, one, kind, first_order, loss_and_gradient):
    ours, task = learner(kind, first_order=first_order), one(draw(kind))
    expected = chaser(ours, task, first_order)
    loss, gradient = loss_and_gradient(ours, None, lambda _: ours.meta_loss(task))
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-7, atol=0)
    expected_gradient = torch.autograd.grad(expected, list(ours.parameters()))
    expected_gradient = torch.cat([g.flatten() for g in expected_gradient])
    assert expected_gradient.abs().max() > 1e-5
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_particle_ascends_its_posterior(learner, draw, one, kind):
    """M = 1: the kernel drops out, and a step is gradient ascent towards the MAP estimate."""
    ours, task = learner(kind, particles=1), one(draw(kind))
    ours.inner_lr.fill_(1e-3)
    *_, after = ours.adapt_particles(ours.initial_particles(), task.support, 1, ours.inner_lr)
    theta = particle(ours.initial_particles(), 0)
    gradient = torch.autograd.grad(log_posterior(ours, theta, task.support), list(theta.values()))
    for (name, start), g in zip(theta.items(), gradient, strict=True):
        rate = ours.inner_lr * (0.5 if name.startswith("log_") else 1.0)
        torch.testing.assert_close(after[name][0], start + rate * g, rtol=1e-7, atol=1e-9)


def test_without_repulsion_close_particles_stay_together(learner, draw, one, monkeypatch):
    task = one(draw("mlp"))

    def spread():
        ours = learner("mlp")
        generator = torch.Generator().manual_seed(0)
        theta = ours.initial_particles()
        start = {n: p[:1] + 1e-3 * torch.randn(p.shape, generator=generator).double() for n, p in theta.items()}
        constant = {n: p.detach() for n, p in start.items()}
        *_, after = ours.adapt_particles(constant, task.support, 30, torch.tensor(1e-3))
        return (squared_distances(after).sum() / squared_distances(start).sum()).sqrt().item()

    assert spread() > 2

    def attraction_only(particles, gradients):
        return {n: g.mean(0, keepdim=True).expand_as(g) for n, g in gradients.items()}

    monkeypatch.setattr(bmaml, "direction", attraction_only)
    assert spread() < 1.01


def test_the_likelihood_is_a_sum(learner, draw, one):
    """Examples given twice count twice against the prior; a mean over examples would not change."""
    ours, task = learner("mlp"), one(draw("mlp"))
    twice = Examples(*(torch.cat([leaf, leaf]) for leaf in task.support))
    (_, once), (_, doubled) = (
        ours.adapt_particles(ours.initial_particles(), examples, 1, ours.inner_lr) for examples in (task.support, twice)
    )
    assert (once["features.linear1.weight"] - doubled["features.linear1.weight"]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_equals_a_loop(learner, draw, kind, loss_and_gradient):
    for ensemble in (False, True):
        results = []
        for vectorized in (True, False):
            ours = learner(kind, ensemble=ensemble)
            ours.vectorized = vectorized
            results.append(loss_and_gradient(ours, draw(kind)))
        for vectorized, looped in zip(*results, strict=True):
            torch.testing.assert_close(vectorized, looped, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_samples_of_all_particles(learner, draw, one, kind):
    ours, task = learner(kind), one(draw(kind))
    predictions = [predict(task.query.x) for predict in ours.trajectory(task.support, 2)]
    theta = ours.initial_particles()
    for k, prediction in enumerate(predictions):
        assert isinstance(prediction, Samples)
        if k:
            theta = svgd_by_hand(ours, theta, task.support, 1, ours.inner_lr)
        weights = [{n: p for n, p in particle(theta, m).items() if not n.startswith("log_")} for m in range(4)]
        expected = torch.stack([functional_call(ours.net, w, (task.query.x,)) for w in weights])
        torch.testing.assert_close(prediction.values, expected, rtol=1e-6, atol=1e-8)
        if kind == "conv4":
            assert prediction.variance is None and "log_gamma" not in theta
        else:
            variance = 1 / theta["log_gamma"].exp()
            torch.testing.assert_close(prediction.variance[:, 0, 0], variance, rtol=1e-7, atol=0)
            assert float(variance[0]) == pytest.approx(0.25, rel=0.5) and (k == 0 or float(variance[0]) != 0.25)


def test_particles_start_apart(learner):
    ours = learner("mlp")
    assert ours.diagnostics()["spread"] > 0.5
    assert ours.diagnostics()["log_gamma"].item() == pytest.approx(4.0)
    weights = dict(ours.net.named_parameters())
    assert all(p.shape[0] == 4 for p in weights.values())


@pytest.mark.parametrize("kind", KINDS)
def test_an_ensemble_equals_independent_mamls(learner, make, draw, one, kind, loss_and_gradient):
    ours, batch = learner(kind, ensemble=True, inner_lr=0.1), draw(kind)
    losses, gradients, predictions = [], [], []
    for m in range(4):
        maml = make(MAML, kind, inner_lr=0.1, inner_steps=2, eval_steps=2, first_order=False)
        maml.net.load_state_dict(particle(ours.net.state_dict(), m))
        loss, _ = loss_and_gradient(maml, batch)
        losses.append(loss)
        gradients.append({name: p.grad.clone() for name, p in maml.net.named_parameters()})
        predictions.append(maml.adapt(one(batch).support)(one(batch).query.x))
    loss, _ = loss_and_gradient(ours, batch)
    torch.testing.assert_close(loss, torch.stack(losses).mean(0), rtol=1e-8, atol=0)
    for name, p in ours.net.named_parameters():
        expected = torch.stack([gradient[name] for gradient in gradients]) / 4
        torch.testing.assert_close(p.grad, expected, rtol=1e-6, atol=1e-9)
    prediction = ours.adapt(one(batch).support)(one(batch).query.x)
    torch.testing.assert_close(prediction.values, torch.stack(predictions), rtol=1e-7, atol=1e-9)
    assert prediction.variance is None and list(ours.precisions.parameters()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_ensembles_gradient_agrees_with_finite_differences(learner, draw, kind, slopes_agree):
    slopes_agree(learner(kind, ensemble=True, inner_lr=0.05), draw(kind), rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"particles": 0}, "algo.particles must be an integer of at least 1; got 0"),
        ({"leader_steps": -1}, "algo.leader_steps must be an integer of at least 0; got -1"),
        ({"inner_steps": 1.5}, "algo.inner_steps must be an integer of at least 0; got 1.5"),
        ({"weight_precision": [1.0]}, "weight_precision must be start, shape and rate"),
    ],
)
def test_rejects_invalid_arguments(learner, changes, message):
    with pytest.raises(ValueError, match=message):
        learner("conv4", **changes)


@pytest.mark.slow
@pytest.mark.parametrize(("ensemble", "bar"), [(False, 0.85), (True, 0.8)])
def test_it_learns(ensemble, bar):
    torch.manual_seed(0)
    changes = {"particles": 3, "ensemble": ensemble, "inner_steps": 1, "eval_steps": 1, "leader_steps": 1}
    changes |= {"inner_lr": 0.3, "leader_lr": 0.3, "precision_rate": 0.0, "weight_precision": [0.01, 2.0, 200.0]}
    ours = BMAML(toy.mlp((2,)), 3, F.cross_entropy, **(ARGS | changes))
    before, after = toy.score(ours, toy.Blobs(), 120, toy.adam(lr=1e-2), meta_batch_size=6, tasks=60)
    assert before < 0.72
    assert after > bar
    assert 0.1 < ours.diagnostics()["spread"] < 10  # not collapsed
