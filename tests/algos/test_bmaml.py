"""Is it BMAML? Against its steps and its chaser loss written out, and EMAML against so many MAMLs."""

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
NUMBERS = {"particles": 4, "ensemble": False, "inner_lr": 1e-3, "inner_steps": 2, "eval_steps": 2, "first_order": False}
NUMBERS |= {"leader_lr": 2e-3, "leader_steps": 3, "noise_precision": [4.0, 2.0, 0.2]}
NUMBERS |= {"weight_precision": [1.5, 2.0, 2.0], "precision_rate": 0.5}


@pytest.fixture
def learner(make):
    return lambda kind, **changes: make(BMAML, kind, **(NUMBERS | changes))


def particle(theta, m):
    return {name: p[m] for name, p in theta.items()}


def log_posterior(ours, theta, examples):
    """Of one particle, written out; but for a constant."""
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


def walked(ours, theta, examples, steps, rate, constant=False):
    """SVGD by autograd, particle by particle (`direction` has tests of its own)."""
    for _ in range(steps):
        slopes = []
        for m in range(len(theta["log_lambda"])):
            own = particle(theta, m)
            value = log_posterior(ours, own, examples)
            found = torch.autograd.grad(value, list(own.values()), create_graph=True)
            slopes.append([slope.detach() if constant else slope for slope in found])
        gradients = {name: torch.stack(rows) for name, rows in zip(theta, zip(*slopes, strict=True), strict=True)}
        moves = direction(theta, gradients)
        rates = {name: rate * (0.5 if name.startswith("log_") else 1.0) for name in theta}
        theta = {name: p + rates[name] * moves[name] for name, p in theta.items()}
    return theta


def chaser(ours, task, constant=False):
    """The chaser loss of one task, its leader without a graph."""
    follower = walked(ours, ours.start(), task.support, 2, ours.inner_lr, constant)
    both = Examples(*(torch.cat(leaves) for leaves in zip(task.support, task.query, strict=True)))
    leader = walked(ours, {n: p.detach().requires_grad_() for n, p in follower.items()}, both, 3, ours.leader_lr)
    weights = [name for name in follower if not name.startswith("log_")]
    return sum((follower[name] - leader[name].detach()).square().sum() for name in weights)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_and_its_gradient_are_the_chasers(learner, draw, one, kind, first_order, loss_and_gradient):
    ours, task = learner(kind, first_order=first_order), one(draw(kind))
    expected = chaser(ours, task, first_order)
    found, gradient = loss_and_gradient(ours, None, lambda _: ours.meta_loss(task))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-7, atol=0)
    slopes = torch.autograd.grad(expected, list(ours.parameters()))
    slopes = torch.cat([slope.flatten() for slope in slopes])
    assert slopes.abs().max() > 1e-5
    torch.testing.assert_close(gradient, slopes, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_one_particle_climbs_its_posterior(learner, draw, one, kind):
    """M = 1: no kernel is left, and a step is one of gradient ascent towards the MAP estimate."""
    ours, task = learner(kind, particles=1), one(draw(kind))
    ours.inner_lr.fill_(1e-3)
    *_, after = ours.walk(ours.start(), task.support, 1, ours.inner_lr)
    own = particle(ours.start(), 0)
    slopes = torch.autograd.grad(log_posterior(ours, own, task.support), list(own.values()))
    for (name, start), slope in zip(own.items(), slopes, strict=True):
        rate = ours.inner_lr * (0.5 if name.startswith("log_") else 1.0)
        torch.testing.assert_close(after[name][0], start + rate * slope, rtol=1e-7, atol=1e-9)


def test_without_repulsion_close_particles_stay_together(learner, draw, one, monkeypatch):
    task = one(draw("mlp"))

    def spread():
        ours = learner("mlp")
        generator = torch.Generator().manual_seed(0)
        start = {n: p[:1] + 1e-3 * torch.randn(p.shape, generator=generator).double() for n, p in ours.start().items()}
        *_, after = ours.walk({n: p.detach() for n, p in start.items()}, task.support, 30, torch.tensor(1e-3))
        return (squared_distances(after).sum() / squared_distances(start).sum()).sqrt().item()

    assert spread() > 2

    def attraction_only(particles, gradients):
        return {n: g.mean(0, keepdim=True).expand_as(g) for n, g in gradients.items()}

    monkeypatch.setattr(bmaml, "direction", attraction_only)
    assert spread() < 1.01


def test_the_likelihood_is_a_sum(learner, draw, one):
    """Every example twice weighs against the prior twice; a mean over examples would not notice."""
    ours, task = learner("mlp"), one(draw("mlp"))
    twice = Examples(*(torch.cat([leaf, leaf]) for leaf in task.support))
    (_, once), (_, doubled) = (ours.walk(ours.start(), e, 1, ours.inner_lr) for e in (task.support, twice))
    assert (once["features.linear1.weight"] - doubled["features.linear1.weight"]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_is_a_loop(learner, draw, kind, loss_and_gradient):
    for ensemble in (False, True):
        results = []
        for vectorized in (True, False):
            ours = learner(kind, ensemble=ensemble)
            ours.vectorized = vectorized
            results.append(loss_and_gradient(ours, draw(kind)))
        for together, alone in zip(*results, strict=True):
            torch.testing.assert_close(together, alone, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_samples_of_all_particles(learner, draw, one, kind):
    ours, task = learner(kind), one(draw(kind))
    found = [predict(task.query.x) for predict in ours.trajectory(task.support, 2)]
    theta = ours.start()
    for k, prediction in enumerate(found):
        assert isinstance(prediction, Samples)
        if k:
            theta = walked(ours, theta, task.support, 1, ours.inner_lr)
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
def test_an_ensemble_is_so_many_mamls(learner, make, draw, one, kind, loss_and_gradient):
    ours, batch = learner(kind, ensemble=True, inner_lr=0.1), draw(kind)
    losses, gradients, predictions = [], [], []
    for m in range(4):
        maml = make(MAML, kind, inner_lr=0.1, inner_steps=2, eval_steps=2, first_order=False)
        maml.net.load_state_dict(particle(ours.net.state_dict(), m))
        loss, _ = loss_and_gradient(maml, batch)
        losses.append(loss)
        gradients.append({name: p.grad.clone() for name, p in maml.net.named_parameters()})
        predictions.append(maml.adapt(one(batch).support)(one(batch).query.x))
    found, _ = loss_and_gradient(ours, batch)
    torch.testing.assert_close(found, torch.stack(losses).mean(0), rtol=1e-8, atol=0)
    for name, p in ours.net.named_parameters():
        expected = torch.stack([one[name] for one in gradients]) / 4
        torch.testing.assert_close(p.grad, expected, rtol=1e-6, atol=1e-9)
    prediction = ours.adapt(one(batch).support)(one(batch).query.x)
    torch.testing.assert_close(prediction.values, torch.stack(predictions), rtol=1e-7, atol=1e-9)
    assert prediction.variance is None and list(ours.precisions.parameters()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_ensembles_gradient_is_what_finite_differences_say(learner, draw, kind, slopes_agree):
    slopes_agree(learner(kind, ensemble=True, inner_lr=0.05), draw(kind), rtol=1e-4)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"particles": 0}, "particles must be a whole number of at least 1, got 0"),
        ({"leader_steps": -1}, "leader_steps must be a whole number"),
        ({"inner_steps": 1.5}, "inner_steps must be a whole number"),
        ({"weight_precision": [1.0]}, "weight_precision must be start, shape and rate"),
        ({"backbone": toy.conv4((1, 16, 16), norm="running")}, "backbone.norm must not be running for algo=bmaml"),
    ],
)
def test_refuses_what_makes_no_sense(learner, bad, says):
    with pytest.raises(ValueError, match=says):
        learner("conv4", **bad)


@pytest.mark.parametrize(("ensemble", "bar"), [(False, 0.85), (True, 0.8)])
def test_it_learns(ensemble, bar):
    torch.manual_seed(0)
    numbers = {"particles": 3, "ensemble": ensemble, "inner_steps": 1, "eval_steps": 1, "leader_steps": 1}
    numbers |= {"inner_lr": 0.3, "leader_lr": 0.3, "precision_rate": 0.0, "weight_precision": [0.01, 2.0, 200.0]}
    ours = BMAML(toy.mlp((2,)), 3, F.cross_entropy, **(NUMBERS | numbers))
    before, after = toy.score(ours, toy.Blobs(), 120, toy.adam(lr=1e-2), meta_batch_size=6, tasks=60)
    assert before < 0.72
    assert after > bar
    assert 0.1 < ours.diagnostics()["spread"] < 10  # not collapsed
