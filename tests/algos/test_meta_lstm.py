"""Meta-LSTM against torch's own cell in plain loops, SGD where gates are clamped, and frozen gradients."""

import pytest
import torch
import torch.nn.functional as F
import toy
from torch import nn

from metarun.algos import meta_lstm
from metarun.algos.meta_lstm import MetaLSTM
from metarun.evaluation.evaluate import evaluate
from metarun.learner.gradient_descent import descend
from metarun.numerics.gradient_input import preprocess
from metarun.tasks import Examples, Task
from metarun.training.loop import TrainState, fit

ARGS = {"hidden": 6, "p": 10.0, "divide_gradient": False, "inner_steps": 3, "eval_steps": 3}


def learner(seed=0, backbone=None, outputs=1, large_weights=True, **changes):
    """A small learner in float64; `large_weights`: such that all inputs of the meta-learner matter."""
    torch.manual_seed(seed)
    loss = F.mse_loss if outputs == 1 else F.cross_entropy
    ours = MetaLSTM(backbone or toy.mlp(hidden=[5]), outputs, loss, **(ARGS | changes)).double()
    if large_weights:
        for module in (ours.lstm, ours.forget, ours.input):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.7)
        nn.init.constant_(ours.input.bias, -3.0)
    return ours


def flat(ours):
    return torch.cat([p.flatten() for p in ours.net.parameters()])


def by_hand(ours, task, steps, share=1.0):
    """Weights after each step, from torch's LSTM cell, with the graph through everything except gradients and losses.

    Args:
        share: factor of the gradient of the mean loss.
    """
    cell = nn.LSTMCell(4, ARGS["hidden"]).double()
    parameters = {"weight_ih": ours.lstm.weight_ih, "weight_hh": ours.lstm.weight_hh, "bias_ih": ours.lstm.bias}
    parameters["bias_hh"] = torch.zeros_like(ours.lstm.bias)
    theta = flat(ours)
    h = s = theta.new_zeros(len(theta), ARGS["hidden"])
    f = i = torch.zeros_like(theta)
    names, shapes = zip(*((n, p.shape) for n, p in ours.net.named_parameters()), strict=True)
    thetas = [theta]
    for _ in range(steps):
        pieces = [p.requires_grad_() for p in theta.detach().clone().split([s.numel() for s in shapes])]
        named = {n: p.view(shape) for n, p, shape in zip(names, pieces, shapes, strict=True)}
        loss = ours.loss(torch.func.functional_call(ours.net, named, (task.support.x,)), task.support.y)
        g = share * torch.cat(torch.autograd.grad(loss, pieces))
        inputs = torch.cat([preprocess(loss.detach(), 10.0).repeat(len(g), 1), preprocess(g, 10.0)], 1)
        h, s = torch.func.functional_call(cell, parameters, (inputs, (h, s)))
        (w_f,), b_f, (w_i,), b_i = (*ours.forget.parameters(), *ours.input.parameters())
        f = h @ w_f[:-2] + theta * w_f[-2] + f * w_f[-1] + b_f
        i = h @ w_i[:-2] + theta * w_i[-2] + i * w_i[-1] + b_i
        theta = torch.sigmoid(f) * theta - torch.sigmoid(i) * g
        thetas.append(theta)
    return thetas


def network(ours, theta, x):
    named = {}
    for name, p in ours.net.named_parameters():
        named[name], theta = theta[: p.numel()].view(p.shape), theta[p.numel() :]
    return torch.func.functional_call(ours.net, named, (x,))


@pytest.mark.parametrize(("divide", "share"), [(False, 1.0), (True, 0.1)])  # of 10 points
def test_steps_are_those_of_the_equations(divide, share, draw, one):
    ours, task = learner(divide_gradient=divide), one(draw("mlp"))
    predictors = list(ours.trajectory(task.support, 3))
    assert len(predictors) == 4
    for predictor, theta in zip(predictors, by_hand(ours, task, 3, share), strict=True):
        torch.testing.assert_close(predictor(task.query.x), network(ours, theta, task.query.x), rtol=1e-9, atol=1e-11)


def test_the_meta_gradient_is_that_of_the_equations(draw, one):
    ours, task = learner(), one(draw("mlp"))
    gradients = []
    for loss in (
        ours.meta_loss(task),
        F.mse_loss(network(ours, by_hand(ours, task, 3)[-1], task.query.x), task.query.y),
    ):
        ours.zero_grad()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in ours.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


def clamped(ours, lr):
    for gate, bias in ((ours.forget, 1e3), (ours.input, torch.tensor(lr).double().logit())):
        nn.init.zeros_(gate.weight)
        nn.init.constant_(gate.bias, bias)
    return ours


@pytest.mark.parametrize("kind", ["mlp", "conv4"])
def test_with_clamped_gates_it_is_plain_gradient_descent(kind, draw, one, backbones):
    ours = clamped(learner(backbone=backbones[kind], outputs={"mlp": 1, "conv4": 5}[kind]), 0.05)
    task = one(draw(kind))
    plain = descend(ours, ours.net, task.support, 3, torch.tensor(0.05).double(), first_order=True)
    for a, b in zip(ours.trajectory(task.support, 3), plain, strict=True):
        torch.testing.assert_close(a(task.query.x), b(task.query.x), rtol=1e-9, atol=1e-11)


def test_a_positive_gradient_decreases_a_weight():
    ours = clamped(learner(), 0.1)
    theta, gradient = torch.tensor([1.0, 1.0, -2.0]).double(), torch.tensor([0.5, -0.5, 2.0]).double()
    stepped, _ = ours.update(theta, gradient, torch.tensor(1.0).double(), ours.start(theta))
    torch.testing.assert_close(stepped, torch.tensor([0.95, 1.05, -2.2]).double())


def test_gates_see_the_previous_steps_gates_before_the_sigmoid():
    ours = learner()
    for gate, w, b in ((ours.forget, 0.5, 2.0), (ours.input, -0.25, -3.0)):
        nn.init.zeros_(gate.weight)
        nn.init.constant_(gate.bias, b)
        with torch.no_grad():
            gate.weight[0, -1] = w
    theta = torch.ones(2).double()
    state = ours.start(theta)
    for f, i in ((2.0, -3.0), (3.0, -2.25), (3.5, -2.4375)):  # b + w times the previous value
        _, state = ours.update(theta, theta, torch.tensor(1.0).double(), state)
        torch.testing.assert_close(state.f, torch.full((2,), f).double())
        torch.testing.assert_close(state.i, torch.full((2,), i).double())


def test_the_lstm_sees_loss_and_gradient_by_logarithm_and_sign():
    ours, inputs = learner(p=5.0), []
    ours.lstm.register_forward_hook(lambda module, args, result: inputs.append(args[0]))
    theta, gradient = torch.ones(3).double(), torch.tensor([2.0, -1e-4, 0.0]).double()
    ours.update(theta, gradient, torch.tensor(3.0).double(), ours.start(theta))
    loss = torch.tensor([[torch.tensor(3.0).double().log() / 5, 1.0]] * 3).double()
    torch.testing.assert_close(inputs[0], torch.cat([loss, preprocess(gradient, 5.0)], 1))


def weights_and_gradients(seed=0, coordinates=5, steps=4):
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(coordinates, generator=generator).double()
    return theta, torch.randn(steps, coordinates, generator=generator).double()


def updated(ours, theta, gradients):
    state = ours.start(theta)
    for gradient in gradients:
        theta, state = ours.update(theta, gradient, torch.tensor(0.7).double(), state)
    return theta


def test_coordinates_share_the_networks_and_nothing_else():
    ours, (theta, gradients) = learner(), weights_and_gradients()
    order = torch.tensor([3, 0, 4, 1, 2])
    end = updated(ours, theta, gradients)
    torch.testing.assert_close(updated(ours, theta[order], gradients[:, order]), end[order])
    other = gradients.clone()
    other[:, 2] += 1
    change = (updated(ours, theta, other) - end).abs()
    assert change[2] > 1e-3
    assert change[[0, 1, 3, 4]].max() == 0


def test_a_step_depends_on_earlier_gradients():
    """With the same weights and the same last gradient, another earlier gradient gives another step."""
    ours, (theta, gradients) = learner(), weights_and_gradients()
    nn.init.zeros_(ours.forget.weight[:, -1:])
    nn.init.zeros_(ours.input.weight[:, -1:])
    steps = []
    for earlier in (gradients[0], -gradients[0]):
        _, state = ours.update(theta, earlier, torch.tensor(0.7).double(), ours.start(theta))
        steps.append(ours.update(theta, gradients[1], torch.tensor(0.7).double(), state)[0])
    assert (steps[0] - steps[1]).abs().min() > 1e-4


def freeze_gradients(ours, task, monkeypatch):
    """Freeze inner gradients and losses at their values for the current weights."""
    results, grad_and_value = [], torch.func.grad_and_value

    def recording(f):
        def call(*args):
            results.append(grad_and_value(f)(*args))
            return results[-1]

        return call

    with monkeypatch.context() as patch:
        patch.setattr(meta_lstm, "grad_and_value", recording)
        ours.meta_loss(task)
    calls = iter(range(10**6))
    monkeypatch.setattr(meta_lstm, "grad_and_value", lambda f: lambda *args: results[next(calls) % len(results)])
    assert len(results) == ours.inner_steps


def test_no_gradient_flows_through_inner_gradients_and_losses(
    draw, one, monkeypatch, slopes_agree, loss_and_gradient, relative
):
    ours, task = learner(), one(draw("mlp"))
    batch = Task(*(Examples(*(leaf[None] for leaf in examples)) for examples in task))
    _, gradient = loss_and_gradient(ours, batch)
    start = nn.utils.parameters_to_vector(ours.parameters()).detach()
    with pytest.raises(AssertionError):  # finite differences include the dependence through inner gradients
        slopes_agree(ours, batch)
    nn.utils.vector_to_parameters(start, ours.parameters())
    freeze_gradients(ours, task, monkeypatch)
    _, frozen = loss_and_gradient(ours, batch)
    torch.testing.assert_close(gradient, frozen, rtol=1e-12, atol=1e-14)
    slopes_agree(ours, batch)


@pytest.mark.parametrize("kind", ["mlp", "conv4"])
def test_vmap_equals_a_loop(kind, draw, backbones, loss_and_gradient):
    ours, batch = learner(backbone=backbones[kind], outputs={"mlp": 1, "conv4": 5}[kind]), draw(kind)
    vectorized = loss_and_gradient(ours, batch)
    ours.vectorized = False
    torch.testing.assert_close(loss_and_gradient(ours, batch), vectorized, rtol=1e-9, atol=1e-11)


def test_it_is_initialised_as_gradient_descent_with_small_steps():
    ours = learner(large_weights=False, hidden=20)
    assert 4 <= ours.forget.bias.item() <= 5
    assert -5 <= ours.input.bias.item() <= -4
    others = [*ours.lstm.parameters(), ours.forget.weight, ours.input.weight]
    assert all(p.abs().max() <= 0.01 for p in others)
    assert all(p.abs().max() > 0.005 for p in others)
    assert set(ours.diagnostics()) == {"forget_gate", "input_gate"}
    assert 0.98 < ours.diagnostics()["forget_gate"] < 0.994 and 0.0066 < ours.diagnostics()["input_gate"] < 0.0181


def test_evaluation_takes_its_own_number_of_steps(draw, one):
    ours, task = learner(inner_steps=1, eval_steps=2), one(draw("mlp"))
    for predictor, steps in ((ours.adapt(task.support), 1), (ours.eval().adapt(task.support), 2)):
        expected = network(ours, by_hand(ours, task, 2)[steps], task.query.x)
        torch.testing.assert_close(predictor(task.query.x), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 0}, "algo.hidden must be an integer of at least 1; got 0"),
        ({"p": 0.0}, "algo.p must be above 0; got 0.0"),
        ({"inner_steps": -1}, "algo.inner_steps must be an integer of at least 0; got -1"),
        ({"eval_steps": 1.5}, "algo.eval_steps must be an integer of at least 0; got 1.5"),
    ],
)
def test_rejects_invalid_values(changes, message):
    with pytest.raises(ValueError, match=message):
        learner(**changes)


@pytest.mark.slow
def test_it_learns_to_step():
    """Untrained, its steps hardly reduce the loss; trained, they account for most of the reduction."""
    data, meta_optimizer = toy.sinusoid(), toy.adam(lr=1e-2)
    torch.manual_seed(0)
    kwargs = ARGS | {"hidden": 10, "inner_steps": 5, "eval_steps": 5}
    ours = MetaLSTM(toy.mlp(hidden=[16, 16]), 1, F.mse_loss, **kwargs)
    curve = evaluate(ours, data, "test", 100, 5).curve()
    assert curve[5]["mean"] > 3.5
    for _ in fit(TrainState.create(ours, meta_optimizer, torch.device("cpu"), 0), data, meta_optimizer, 250, 5):
        pass
    curve = evaluate(ours, data, "test", 100, 5).curve()
    assert curve[5]["mean"] < 2.2
    assert curve[0]["mean"] - curve[5]["mean"] > 1
