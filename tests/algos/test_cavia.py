"""CAVIA against a hand-written loop, finite differences, and FiLM and concatenation written out."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
import toy

from metarun.algos.cavia import CAVIA
from metarun.backbones.resnet12 import ResNet12
from metarun.evaluation.evaluate import evaluate
from metarun.training.loop import TrainState, fit

KINDS = ["mlp", "conv4"]


def arguments(steps=1, first_order=False, **changes):
    defaults = {"inner_lr": 1.0, "inner_steps": steps, "eval_steps": steps, "context": 4, "film_block": 2}
    return defaults | {"first_order": first_order} | changes


def predict_by_hand(learner, phi, x):
    """The network with context phi, its first layer or its FiLM layer written out."""
    theta = dict(learner.net.named_parameters())
    if "features.linear1.linear.weight" in theta:
        weight, bias = theta["features.linear1.linear.weight"], theta["features.linear1.linear.bias"]
        hidden = x @ weight[:, :1].T + weight[:, 1:] @ phi + bias
        for layer in list(learner.net.features)[1:]:
            hidden = layer(hidden)
        return learner.net.head(hidden)
    for name, layer in learner.net.blocks.named_children():
        if name == "norm2":
            gamma, beta = (theta["blocks.norm2.film.weight"] @ phi + theta["blocks.norm2.film.bias"]).split(6)
            x = gamma.view(1, 6, 1, 1) * layer.layer(x) + beta.view(1, 6, 1, 1)
        else:
            x = layer(x)
    return learner.net.head(x.mean((-2, -1)))


def by_hand(learner, task, steps):
    """The context after the inner steps and the query loss there; phi is a new leaf at zero."""
    phi = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    for _ in range(steps):
        loss = learner.loss(predict_by_hand(learner, phi, task.support.x), task.support.y)
        (slope,) = torch.autograd.grad(loss, phi, create_graph=not learner.first_order)
        phi = phi - learner.inner_lr * slope
    return phi, learner.loss(predict_by_hand(learner, phi, task.query.x), task.query.y)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_meta_gradient_are_those_of_a_hand_written_loop(kind, steps, first_order, make, draw, one):
    learner, task = make(CAVIA, kind, **arguments(steps, first_order)), one(draw(kind))
    parameters = list(learner.parameters())
    phi, loss = by_hand(learner, task, steps)
    assert phi.abs().max() > 1e-6
    expected = torch.autograd.grad(loss, parameters)
    ours = learner.meta_loss(task)
    torch.testing.assert_close(ours, loss, rtol=1e-11, atol=0)
    for a, b in zip(torch.autograd.grad(ours, parameters), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_second_order_agrees_with_finite_differences(kind, make, draw, slopes_agree):
    slopes_agree(make(CAVIA, kind, **arguments(3)), draw(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_first_and_second_order_differ(kind, make, draw, loss_and_gradient, relative):
    second, first = (loss_and_gradient(make(CAVIA, kind, **arguments(2, order)), draw(kind)) for order in (False, True))
    torch.testing.assert_close(first[0], second[0], rtol=1e-12, atol=0)
    assert relative(first[1], second[1]) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_phi_is_no_parameter_is_not_saved_and_starts_at_zero_for_every_task(kind, make, draw, one):
    learner, batch = make(CAVIA, kind, **arguments(2)), draw(kind)
    names = [name for name, _ in learner.named_parameters()] + list(learner.state_dict())
    assert not any("phi" in name for name in names)
    before = learner.meta_loss(one(batch))
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.0)
    learner(batch).mean().backward()
    optimizer.step()  # neither other tasks nor a step of the meta-optimizer leave a trace
    assert torch.equal(learner.meta_loss(one(batch)), before)
    first, *_ = learner.trajectory(one(batch).support, 2)
    zero = torch.zeros(4, dtype=torch.float64)
    expected = predict_by_hand(learner, zero, one(batch).query.x)
    torch.testing.assert_close(first(one(batch).query.x), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_without_context_nothing_adapts(kind, make, draw, one):
    learner, task = make(CAVIA, kind, **arguments(3, context=0)), one(draw(kind))
    first, *others = (predict(task.query.x) for predict in learner.trajectory(task.support, 3))
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_equals_a_loop(kind, make, draw, loss_and_gradient):
    learner, batch = make(CAVIA, kind, **arguments(2)), draw(kind)
    vectorized = loss_and_gradient(learner, batch)
    learner.vectorized = False
    torch.testing.assert_close(loss_and_gradient(learner, batch), vectorized, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_compiled_equals_eager(make, draw, loss_and_gradient, compiled_loss_and_gradient):
    learner, batch = make(CAVIA, "mlp", **arguments(2)), draw("mlp")
    eager = loss_and_gradient(learner, batch)
    torch._dynamo.reset()
    compiled = compiled_loss_and_gradient(learner, batch)
    torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-12)


def test_resnet12_takes_phi_after_a_block(make):
    """FiLM on the channels of its third block; while phi is zero, the bias alone scales its output."""
    backbone = partial(ResNet12, in_shape=(3, 16, 16), wider=False, norm="batch", init="torch")
    learner = make(CAVIA, "conv4", backbone=backbone, **arguments(film_block=3))
    assert learner.phi_name == "blocks.2.phi"
    film = learner.net.blocks[2]
    assert film.film.weight.shape == (2 * 256, 4)
    x = torch.randn(2, 128, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gamma, beta = film.film.bias.view(2, -1, 1, 1)
    torch.testing.assert_close(film(x), gamma * film.layer(x) + beta)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": -1}, "algo.context must be an integer of at least 0; got -1"),
        ({"film_block": 4}, "algo.film_block must be the number of a block of the backbone, from 1; got 4"),
    ],
)
def test_rejects_invalid_values(change, message, make):
    with pytest.raises(ValueError, match=message):
        make(CAVIA, "conv4", **arguments(**change))


@pytest.mark.slow
def test_it_learns_the_sinusoid_and_without_context_it_does_not():
    scores = {}
    for context in (5, 0):
        torch.manual_seed(0)
        learner = CAVIA(toy.mlp(hidden=[40, 40], activation="relu"), 1, F.mse_loss, **arguments(context=context))
        scores["untrained"] = evaluate(learner, toy.sinusoid(), "test", 100, 0).estimate().mean
        meta_optimizer = toy.adam(lr=2e-3)
        for _ in fit(
            TrainState.create(learner, meta_optimizer, torch.device("cpu"), 0), toy.sinusoid(), meta_optimizer, 1500, 25
        ):
            pass
        scores[context] = evaluate(learner, toy.sinusoid(), "test", 100, 0).estimate().mean
    assert scores["untrained"] > 2.4
    assert scores[0] > 2.4  # the best prediction without adaptation has a loss of 3.1
    assert scores[5] < 1.0
