"""MAML++ against loops written out by hand, the official code's loss weights, and MAML."""

import pytest
import torch
import toy
from torch import nn
from torch.func import functional_call

from metarun.algos.maml import MAML
from metarun.algos.maml_pp import MAMLPlusPlus
from metarun.evaluation.evaluate import evaluate
from metarun.layers.norm import batch_norms
from metarun.learner.gradient_descent import descend
from metarun.training.loop import TrainState, fit

KINDS = ["mlp", "conv4"]


def arguments(steps=3, **changes):
    defaults = {"rates_lr": 1e-5, "inner_steps": steps, "eval_steps": steps}
    return defaults | {"multi_step_share": 0.1, "first_order_share": 0.0} | changes


def perturbed(learner):
    """The learner with rates and batch norms that differ from step to step."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in (learner.rates, *(p for norm in batch_norms(learner) for p in norm.parameters())):
            p += 0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return learner


def by_hand(learner, task, weights, first_order=False):
    """The weighted sum of query losses, with torch.autograd alone."""
    norms = [n for n, _ in learner.net.named_parameters() if ".norm" in n]
    parameters = dict(learner.net.named_parameters())
    theta = {n: p for n, p in parameters.items() if n not in norms}
    total = 0
    for k, weight in enumerate(weights):
        beta = {n: parameters[n][k] for n in norms}
        loss = learner.loss(functional_call(learner.net, theta | beta, (task.support.x,)), task.support.y)
        gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=not first_order, retain_graph=True)
        theta = {
            n: p - learner.rates[k, i] * g for i, ((n, p), g) in enumerate(zip(theta.items(), gradients, strict=True))
        }
        query = functional_call(learner.net, theta | beta, (task.query.x,))
        total = total + weight * learner.loss(query, task.query.y)
    return total


# The weights w: 1/S each at first; those of all steps but the last fall to 0.03/S over a tenth of training.
WEIGHTS = {0.0: [1 / 3, 1 / 3, 1 / 3], 0.05: [1 / 6, 1 / 6, 4 / 6], 0.1: [0.01, 0.01, 0.98], 0.7: [0.01, 0.01, 0.98]}


@pytest.mark.parametrize("progress", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_meta_gradient_are_those_of_a_hand_written_loop(kind, progress, make, draw, one):
    learner, task = perturbed(make(MAMLPlusPlus, kind, **arguments())), one(draw(kind))
    learner.progress.fill_(progress)
    expected = by_hand(learner, task, WEIGHTS[progress])
    gradients = torch.autograd.grad(expected, list(learner.parameters()))
    loss = learner.meta_loss(task)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)  # multi_step_share is 0.1 in float32
    for (name, p), gradient in zip(learner.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(
            p.grad, gradient, rtol=1e-5, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert (learner.rates.grad.abs().amax(1) > 0).all()


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("share", [0.1, 1.0])
def test_weights_sum_to_one_and_end_at_the_floor(steps, share, make):
    learner = make(MAMLPlusPlus, "mlp", **arguments(steps, multi_step_share=share))
    last = []
    for progress in torch.linspace(0, 1, 41).tolist():
        learner.progress.fill_(progress)
        weights = learner.step_weights()
        assert weights.shape == (steps,) and float(weights.sum()) == pytest.approx(1, abs=1e-9)
        assert float(weights.min()) > 0.0299 / steps
        last.append(float(weights[-1]))
    assert last == sorted(last) and last[0] == pytest.approx(1 / steps)
    assert last[-1] == pytest.approx(1 - 0.03 * (steps - 1) / steps)


@pytest.mark.parametrize("epoch", range(10))
def test_weights_are_the_official_ones(epoch, make):
    """few_shot_learning_system.py: each of E epochs moves 1 / (S E) from every other step's weight to the last's."""
    learner, share, epochs = make(MAMLPlusPlus, "mlp", **arguments(5)), 10, 100
    learner.progress.fill_(epoch / epochs)
    official = [1 / 5 - epoch / (5 * share)] * 4
    torch.testing.assert_close(
        learner.step_weights(), torch.tensor([*official, 1 - sum(official)]).double(), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize(("progress", "first_order"), [(0.0, True), (0.49, True), (0.5, False), (1.0, False)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_part_of_training_is_first_order(kind, progress, first_order, make, draw, one):
    learner, task = perturbed(make(MAMLPlusPlus, kind, **arguments(first_order_share=0.5))), one(draw(kind))
    learner.progress.fill_(progress)
    weights = learner.step_weights()
    expected, other = (
        torch.autograd.grad(by_hand(learner, task, weights, order), list(learner.net.parameters()))
        for order in (first_order, not first_order)
    )
    learner.meta_loss(task).backward()
    for p, gradient in zip(learner.net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-8, atol=1e-12)
    assert max(float((a - b).norm() / b.norm()) for a, b in zip(expected, other, strict=True) if b.norm() > 1e-6) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_equals_maml(kind, make, draw, loss_and_gradient, relative):
    ours = make(MAMLPlusPlus, kind, **arguments(1))
    maml = make(MAML, kind, inner_steps=1, eval_steps=1, first_order=False)
    names = [name for name, _ in maml.net.named_parameters()]
    if kind == "conv4":  # batch norms do not adapt in MAML++
        names = [name for name in names if ".norm" not in name]
        rates = dict.fromkeys(names, maml.inner_lr)
        maml.trajectory = lambda support, steps, random_inputs=(): descend(maml, maml.net, support, steps, rates)
    (losses, _), (expected, gradient) = loss_and_gradient(ours, draw(kind)), loss_and_gradient(maml, draw(kind))
    assert relative(losses, expected) < 1e-6
    assert relative(torch.cat([p.grad.flatten() for p in ours.net.parameters()]), gradient) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_vmap_equals_a_loop_and_compiled_equals_eager(kind, make, draw, loss_and_gradient):
    learner, batch = perturbed(make(MAMLPlusPlus, kind, **arguments(2, first_order_share=0.5))), draw(kind)
    torch._dynamo.reset()
    compiled = torch.compile(learner, dynamic=False, backend="aot_eager")
    for progress in (0.0, 0.5):  # one program for all of training
        learner.progress.fill_(progress)
        learner.vectorized = True
        vectorized = loss_and_gradient(learner, batch)
        if kind == "mlp":
            torch.testing.assert_close(loss_and_gradient(learner, batch, compiled), vectorized, rtol=1e-9, atol=1e-12)
        learner.vectorized = False
        torch.testing.assert_close(vectorized, loss_and_gradient(learner, batch), rtol=1e-10, atol=1e-12)


def test_there_is_one_rate_per_tensor_and_step_and_none_for_norms(make):
    learner = make(MAMLPlusPlus, "conv4", **arguments(4))
    assert learner.rates.shape == (4, 3 * 2 + 2)  # weight and bias of three convolutions and the head
    assert learner.adapted_names == [n for n, _ in learner.net.named_parameters() if ".norm" not in n]
    assert all(norm.weight.shape == norm.bias.shape == (4, 6) for norm in batch_norms(learner))


def test_rates_have_their_own_outer_learning_rate(make, draw):
    learner, meta_optimizer = make(MAMLPlusPlus, "mlp", dtype=torch.float32, **arguments(rates_lr=1e-6)), toy.adam(1e-3)
    optimizers = meta_optimizer.build(learner)
    assert {name: o.param_groups[0]["lr"] for name, o in optimizers.items()} == {"meta": 1e-3, "rates": 1e-6}
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    next(fit(TrainState.create(learner, meta_optimizer, torch.device("cpu"), 0), toy.sinusoid(), meta_optimizer, 10, 4))
    moved = {name: float((p.detach() - before[name]).abs().max()) for name, p in learner.named_parameters()}
    assert moved.pop("rates") == pytest.approx(1e-6, rel=0.02)
    assert all(change == pytest.approx(1e-3, rel=0.02) for change in moved.values())  # Adam's first step


def test_each_step_has_its_own_norm_and_further_steps_use_the_last(make, draw, one):
    learner, task = make(MAMLPlusPlus, "conv4", **arguments(3)), one(draw("conv4"))

    def predictions():
        with torch.no_grad():
            return [predict(task.query.x) for predict in learner.trajectory(task.support, 5)]

    plain = predictions()
    with torch.no_grad():
        batch_norms(learner)[0].bias[1] += 1.0
    changed = [not torch.equal(a, b) for a, b in zip(plain, predictions(), strict=True)]
    assert changed == [False, False, True, True, True, True]  # step 2 and all that follow
    with torch.no_grad():
        learner.rates[2] = 0  # the rates of step 3 and of further steps
    *_, third, fourth, fifth = predictions()
    assert torch.equal(third, fourth) and torch.equal(fourth, fifth)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inner_steps": 0}, "algo.inner_steps must be an integer of at least 1; got 0"),
        ({"rates_lr": 0.0}, "algo.rates_lr must be above 0; got 0.0"),
        ({"inner_lr": -1.0}, "algo.inner_lr must be above 0; got -1.0"),
        ({"multi_step_share": 0.0}, "algo.multi_step_share must be above 0; got 0.0"),
    ],
)
def test_rejects_invalid_values(change, message, make):
    with pytest.raises(ValueError, match=message):
        make(MAMLPlusPlus, "mlp", **arguments() | change)


@pytest.mark.slow
def test_learns_the_sinusoid():
    torch.manual_seed(0)
    data, meta_optimizer = toy.sinusoid(), toy.adam(lr=5e-3, max_grad_norm=10.0, scheduler=toy.cosine(400))
    learner = MAMLPlusPlus(toy.mlp(hidden=[40, 40], activation="relu"), 1, nn.functional.mse_loss, 0.01, **arguments(3))
    before = evaluate(learner, data, "test", 100, 0).estimate().mean
    for _ in fit(TrainState.create(learner, meta_optimizer, torch.device("cpu"), 0), data, meta_optimizer, 400, 10):
        pass
    after = evaluate(learner, data, "test", 100, 0).estimate().mean
    assert before > 2.4  # no adaptation: predictions near zero
    assert after < 1.3  # the best prediction without adaptation has a loss of 3.1
