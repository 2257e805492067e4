"""Is it Meta-LSTM? Against torch's own cell and plain loops, SGD where gates are clamped, and frozen gradients."""

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

NUMBERS = {"hidden": 6, "p": 10.0, "divide_gradient": False, "inner_steps": 3, "eval_steps": 3}


def learner(seed=0, backbone=None, outputs=1, loud=True, **changes):
    """Small, in float64; `loud`: weights so large that everything the meta-learner sees matters."""
    torch.manual_seed(seed)
    loss = F.mse_loss if outputs == 1 else F.cross_entropy
    ours = MetaLSTM(backbone or toy.mlp(hidden=[5]), outputs, loss, **(NUMBERS | changes)).double()
    if loud:
        for part in (ours.lstm, ours.forget, ours.input):
            for parameter in part.parameters():
                nn.init.normal_(parameter, std=0.7)
        nn.init.constant_(ours.input.bias, -3.0)
    return ours


def flat(ours):
    return torch.cat([p.flatten() for p in ours.net.parameters()])


def by_hand(ours, task, steps, share=1.0):
    """Weights after each step, from torch's LSTM cell; with the graph through all but gradients and losses.

    `share`: of the gradient of the mean loss.
    """
    cell = nn.LSTMCell(4, NUMBERS["hidden"]).double()
    own = {"weight_ih": ours.lstm.weight_ih, "weight_hh": ours.lstm.weight_hh, "bias_ih": ours.lstm.bias}
    own["bias_hh"] = torch.zeros_like(ours.lstm.bias)
    theta = flat(ours)
    h = s = theta.new_zeros(len(theta), NUMBERS["hidden"])
    f = i = torch.zeros_like(theta)
    names, shapes = zip(*((n, p.shape) for n, p in ours.net.named_parameters()), strict=True)
    found = [theta]
    for _ in range(steps):
        pieces = [p.requires_grad_() for p in theta.detach().clone().split([s.numel() for s in shapes])]
        named = {n: p.view(shape) for n, p, shape in zip(names, pieces, shapes, strict=True)}
        loss = ours.loss(torch.func.functional_call(ours.net, named, (task.support.x,)), task.support.y)
        g = share * torch.cat(torch.autograd.grad(loss, pieces))
        seen = torch.cat([preprocess(loss.detach(), 10.0).repeat(len(g), 1), preprocess(g, 10.0)], 1)
        h, s = torch.func.functional_call(cell, own, (seen, (h, s)))
        (w_f,), b_f, (w_i,), b_i = (*ours.forget.parameters(), *ours.input.parameters())
        f = h @ w_f[:-2] + theta * w_f[-2] + f * w_f[-1] + b_f
        i = h @ w_i[:-2] + theta * w_i[-2] + i * w_i[-1] + b_i
        theta = torch.sigmoid(f) * theta - torch.sigmoid(i) * g
        found.append(theta)
    return found


def network(ours, theta, x):
    named = {}
    for name, p in ours.net.named_parameters():
        named[name], theta = theta[: p.numel()].view(p.shape), theta[p.numel() :]
    return torch.func.functional_call(ours.net, named, (x,))


@pytest.mark.parametrize(("divide", "share"), [(False, 1.0), (True, 0.1)])  # of 10 points
def test_it_steps_as_the_equations_say(divide, share, draw, one):
    ours, task = learner(divide_gradient=divide), one(draw("mlp"))
    predictors = list(ours.trajectory(task.support, 3))
    assert len(predictors) == 4
    for predictor, theta in zip(predictors, by_hand(ours, task, 3, share), strict=True):
        torch.testing.assert_close(predictor(task.query.x), network(ours, theta, task.query.x), rtol=1e-9, atol=1e-11)


def test_its_meta_gradient_is_that_of_the_equations(draw, one):
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
def test_with_its_gates_clamped_it_is_plain_gradient_descent(kind, draw, one, backbones):
    ours = clamped(learner(backbone=backbones[kind], outputs={"mlp": 1, "conv4": 5}[kind]), 0.05)
    task = one(draw(kind))
    plain = descend(ours, ours.net, task.support, 3, torch.tensor(0.05).double(), first_order=True)
    for a, b in zip(ours.trajectory(task.support, 3), plain, strict=True):
        torch.testing.assert_close(a(task.query.x), b(task.query.x), rtol=1e-9, atol=1e-11)


def test_a_positive_gradient_makes_a_weight_smaller():
    ours = clamped(learner(), 0.1)
    theta, gradient = torch.tensor([1.0, 1.0, -2.0]).double(), torch.tensor([0.5, -0.5, 2.0]).double()
    stepped, _ = ours.update(theta, gradient, torch.tensor(1.0).double(), ours.start(theta))
    torch.testing.assert_close(stepped, torch.tensor([0.95, 1.05, -2.2]).double())


def test_gates_see_the_gates_of_the_step_before_without_their_sigmoid():
    ours = learner()
    for gate, w, b in ((ours.forget, 0.5, 2.0), (ours.input, -0.25, -3.0)):
        nn.init.zeros_(gate.weight)
        nn.init.constant_(gate.bias, b)
        with torch.no_grad():
            gate.weight[0, -1] = w
    theta = torch.ones(2).double()
    state = ours.start(theta)
    for f, i in ((2.0, -3.0), (3.0, -2.25), (3.5, -2.4375)):  # b + w times the one before
        _, state = ours.update(theta, theta, torch.tensor(1.0).double(), state)
        torch.testing.assert_close(state.f, torch.full((2,), f).double())
        torch.testing.assert_close(state.i, torch.full((2,), i).double())


def test_the_network_sees_loss_and_gradient_by_logarithm_and_sign():
    ours, seen = learner(p=5.0), []
    ours.lstm.register_forward_hook(lambda module, args, result: seen.append(args[0]))
    theta, gradient = torch.ones(3).double(), torch.tensor([2.0, -1e-4, 0.0]).double()
    ours.update(theta, gradient, torch.tensor(3.0).double(), ours.start(theta))
    loss = torch.tensor([[torch.tensor(3.0).double().log() / 5, 1.0]] * 3).double()
    torch.testing.assert_close(seen[0], torch.cat([loss, preprocess(gradient, 5.0)], 1))


def histories(seed=0, coordinates=5, steps=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(coordinates, generator=generator).double(), torch.randn(
        steps, coordinates, generator=generator
    ).double()


def walk(ours, theta, gradients):
    state = ours.start(theta)
    for gradient in gradients:
        theta, state = ours.update(theta, gradient, torch.tensor(0.7).double(), state)
    return theta


def test_coordinates_share_the_network_and_nothing_else():
    ours, (theta, gradients) = learner(), histories()
    order = torch.tensor([3, 0, 4, 1, 2])
    end = walk(ours, theta, gradients)
    torch.testing.assert_close(walk(ours, theta[order], gradients[:, order]), end[order])
    other = gradients.clone()
    other[:, 2] += 1
    changed = (walk(ours, theta, other) - end).abs()
    assert changed[2] > 1e-3
    assert changed[[0, 1, 3, 4]].max() == 0


def test_it_remembers_the_gradients_it_has_seen():
    """Same weights, same last gradient, another past: another step."""
    ours, (theta, gradients) = learner(), histories()
    nn.init.zeros_(ours.forget.weight[:, -1:])
    nn.init.zeros_(ours.input.weight[:, -1:])
    steps = []
    for past in (gradients[0], -gradients[0]):
        _, state = ours.update(theta, past, torch.tensor(0.7).double(), ours.start(theta))
        steps.append(ours.update(theta, gradients[1], torch.tensor(0.7).double(), state)[0])
    assert (steps[0] - steps[1]).abs().min() > 1e-4


def recorded(ours, task, monkeypatch):
    """From now on the gradients and losses are those of the weights as they are now, whatever the weights are."""
    kept, take = [], torch.func.grad_and_value
    with monkeypatch.context() as patch:
        patch.setattr(meta_lstm, "grad_and_value", lambda f: lambda *a: (kept.append(take(f)(*a)), kept[-1])[1])
        ours.meta_loss(task)
    calls = iter(range(10**6))
    monkeypatch.setattr(meta_lstm, "grad_and_value", lambda f: lambda *a: kept[next(calls) % len(kept)])
    assert len(kept) == ours.inner_steps


def test_nothing_is_differentiated_through_gradients_and_losses(
    draw, one, monkeypatch, slopes_agree, loss_and_gradient, relative
):
    ours, task = learner(), one(draw("mlp"))
    batch = Task(*(Examples(*(leaf[None] for leaf in part)) for part in task))
    _, gradient = loss_and_gradient(ours, batch)
    start = nn.utils.parameters_to_vector(ours.parameters()).detach()
    with pytest.raises(AssertionError):  # of the loss as it is, gradients and all, they are not the slopes
        slopes_agree(ours, batch)
    nn.utils.vector_to_parameters(start, ours.parameters())
    recorded(ours, task, monkeypatch)
    _, frozen = loss_and_gradient(ours, batch)
    torch.testing.assert_close(gradient, frozen, rtol=1e-12, atol=1e-14)
    slopes_agree(ours, batch)


@pytest.mark.parametrize("kind", ["mlp", "conv4"])
def test_vmap_is_a_loop(kind, draw, backbones, loss_and_gradient):
    ours, batch = learner(backbone=backbones[kind], outputs={"mlp": 1, "conv4": 5}[kind]), draw(kind)
    together = loss_and_gradient(ours, batch)
    ours.vectorized = False
    torch.testing.assert_close(loss_and_gradient(ours, batch), together, rtol=1e-9, atol=1e-11)


def test_it_starts_as_gradient_descent_with_small_steps():
    ours = learner(loud=False, hidden=20)
    assert 4 <= ours.forget.bias.item() <= 5
    assert -5 <= ours.input.bias.item() <= -4
    rest = [*ours.lstm.parameters(), ours.forget.weight, ours.input.weight]
    assert all(p.abs().max() <= 0.01 for p in rest)
    assert all(p.abs().max() > 0.005 for p in rest)
    assert set(ours.diagnostics()) == {"forget_gate", "input_gate"}
    assert 0.98 < ours.diagnostics()["forget_gate"] < 0.994 and 0.0066 < ours.diagnostics()["input_gate"] < 0.0181


def test_evaluation_takes_its_own_number_of_steps(draw, one):
    ours, task = learner(inner_steps=1, eval_steps=2), one(draw("mlp"))
    for predictor, steps in ((ours.adapt(task.support), 1), (ours.eval().adapt(task.support), 2)):
        expected = network(ours, by_hand(ours, task, 2)[steps], task.query.x)
        torch.testing.assert_close(predictor(task.query.x), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"hidden": 0}, "hidden must be a whole number of at least 1, got 0"),
        ({"p": 0.0}, "p must be above 0, got 0.0"),
        ({"inner_steps": -1}, "inner_steps must be a whole number of at least 0, got -1"),
        ({"eval_steps": 1.5}, "eval_steps must be a whole number of at least 0, got 1.5"),
    ],
)
def test_refuses_what_makes_no_sense(bad, says):
    with pytest.raises(ValueError, match=says):
        learner(**bad)


def test_it_learns_to_step():
    """Untrained, its steps hardly help; trained, most of what it knows of a task comes from them."""
    data, meta_optimizer = toy.sinusoid(), toy.adam(lr=1e-2)
    torch.manual_seed(0)
    numbers = NUMBERS | {"hidden": 10, "inner_steps": 5, "eval_steps": 5}
    ours = MetaLSTM(toy.mlp(hidden=[16, 16]), 1, F.mse_loss, **numbers)
    curve = evaluate(ours, data, "test", 100, 5).curve()
    assert curve[5]["mean"] > 3.5
    for _ in fit(TrainState.create(ours, meta_optimizer, torch.device("cpu"), 0), data, meta_optimizer, 250, 5):
        pass
    curve = evaluate(ours, data, "test", 100, 5).curve()
    assert curve[5]["mean"] < 2.2
    assert curve[0]["mean"] - curve[5]["mean"] > 1
