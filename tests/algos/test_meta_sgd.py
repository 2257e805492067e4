"""Is it Meta-SGD? Against the paper's equations written out; rates of any sign, learned like the weights."""

import pytest
import torch
import torch.nn.functional as F
import toy
from toy import score
from written_out import DTYPES, KINDS, STEPS, assert_is_descend, backbone_of

from metarun.algos.maml import MAML
from metarun.algos.meta_sgd import MetaSGD, rates_by_name
from metarun.learner.gradient_descent import descend


def numbers(steps=1, rates=(0.005, 0.1)):
    return {"initial_rates": rates, "inner_steps": steps, "eval_steps": steps}


@pytest.fixture
def build(make):
    def construct(kind="mlp", dtype=torch.float64, backbone=None, **kwargs):
        # the fixture's inner_lr is no argument of Meta-SGD, which has a rate for each weight
        changes = numbers(**kwargs) if backbone is None else {"backbone": backbone, **numbers(**kwargs)}
        return make(lambda inner_lr, **rest: MetaSGD(**rest), kind, dtype=dtype, **changes)

    return construct


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_written_out_is_descend(kind, dtype, build, draw, backbones):
    kind, backbone = backbone_of(kind, backbones)
    learner = build(kind, dtype=dtype, backbone=backbone, steps=STEPS, rates=(-0.05, 0.1))

    def shared(support, _random_inputs):
        return descend(learner, learner.net, support, STEPS, rates_by_name(learner.net, learner.rates))

    assert_is_descend(learner, draw(kind, dtype), shared)


@pytest.mark.parametrize("kind", ["mlp", "conv4"])
def test_equal_rates_are_maml(kind, build, make, draw, loss_and_gradient):
    learner = build(kind, rates=(0.1, 0.1), steps=2)
    maml = make(MAML, kind, inner_steps=2, eval_steps=2, first_order=False)
    losses, expected = loss_and_gradient(maml, draw(kind))
    learner(draw(kind)).mean().backward()
    gradient = torch.cat([p.grad.flatten() for p in learner.net.parameters()])
    torch.testing.assert_close(learner(draw(kind)), losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-13)


def test_the_gradient_of_the_rates_is_the_papers(build, draw, one):
    """d L(theta') / d alpha = - grad L(theta') o grad L(theta), one step."""
    learner, task = build(), one(draw("mlp"))
    params = list(learner.net.parameters())
    inner = torch.autograd.grad(learner.loss(learner.net(task.support.x), task.support.y), params)
    theta = [(p - r * g).detach().requires_grad_() for p, r, g in zip(params, learner.rates, inner, strict=True)]
    names = [name for name, _ in learner.net.named_parameters()]
    prediction = torch.func.functional_call(learner.net, dict(zip(names, theta, strict=True)), (task.query.x,))
    meta_optimizer = torch.autograd.grad(F.mse_loss(prediction, task.query.y), theta)
    learner.meta_loss(task).backward()
    for rate, a, b in zip(learner.rates, meta_optimizer, inner, strict=True):
        torch.testing.assert_close(rate.grad, -a * b, rtol=1e-9, atol=1e-14)


def test_a_negative_rate_climbs(build, draw, one):
    """Rates are neither clamped nor made positive by a parametrisation."""
    task = one(draw("mlp"))
    after = {}
    for sign in (1, -1):
        learner = build(rates=(sign * 0.01, sign * 0.01))
        before, last = (learner.loss(p(task.support.x), task.support.y) for p in learner.trajectory(task.support, 1))
        after[sign] = (last - before).item()
    assert after[1] < 0 < after[-1]


def test_training_may_turn_a_rates_sign():
    torch.manual_seed(0)
    learner = MetaSGD(toy.mlp(), 1, F.mse_loss, (1e-4, 2e-4), 1, 1)
    score(learner, toy.sinusoid(), 60, toy.adam(lr=1e-2))
    assert 0.02 < float(learner.diagnostics()["rate/negative"]) < 0.98


def test_rates_start_in_their_range_and_are_saved(build):
    learner = build(rates=(0.02, 0.05))
    flat = torch.cat([rate.flatten() for rate in learner.rates])
    assert 0.02 <= flat.min() < 0.022 and 0.048 < flat.max() <= 0.05
    assert sum(name.startswith("rates.") for name in learner.state_dict()) == 6


def test_refuses_a_range_whose_ends_are_swapped(build):
    message = r"^algo\.initial_rates must be a range \[lowest, highest\]; got \(0\.1, 0\.01\)$"
    with pytest.raises(ValueError, match=message):
        build(rates=(0.1, 0.01))


@pytest.mark.slow
def test_it_learns_the_sinusoid():
    torch.manual_seed(0)
    learner = MetaSGD(toy.mlp(hidden=[40, 40], activation="relu"), 1, F.mse_loss, (0.005, 0.1), 1, 1)
    before, after = score(learner, toy.sinusoid(), 1000, toy.adam(lr=3e-3), meta_batch_size=8)
    assert before > 2.4  # no adaptation
    assert after < 1.0  # the best answer that does not adapt costs 3.1
