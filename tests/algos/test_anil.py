"""Is it ANIL? Against a hand-written loop, MAML with a frozen body, and finite differences."""

import copy

import pytest
import torch
import toy
from torch import nn
from written_out import DTYPES, STEPS, assert_is_descend, backbone_of
from written_out import KINDS as BACKBONES

from metarun.algos.anil import ANIL
from metarun.algos.maml import MAML
from metarun.evaluation.evaluate import evaluate
from metarun.layers.norm import inductive
from metarun.learner.gradient_descent import descend
from metarun.tasks import Examples
from metarun.training.loop import TrainState, fit

KINDS = ["mlp", "conv4"]


def numbers(steps=1, first_order=False):
    return {"inner_steps": steps, "eval_steps": steps, "first_order": first_order}


def whole(learner):
    """Body and head as one network again; they share their weights with the learner."""
    return nn.Sequential(learner.body, learner.head)


def by_hand(learner, task, steps, first_order):
    """Query loss and its gradient, the head's steps written out with torch.autograd alone."""
    net = copy.deepcopy(whole(learner))
    weight, bias = net[1].weight, net[1].bias
    z = net[0](task.support.x)
    for _ in range(steps):
        loss = learner.loss(z @ weight.T + bias, task.support.y)
        if first_order:
            slopes = [g.detach() for g in torch.autograd.grad(loss, (weight, bias), retain_graph=True)]
        else:
            slopes = torch.autograd.grad(loss, (weight, bias), create_graph=True)
        weight, bias = weight - learner.inner_lr * slopes[0], bias - learner.inner_lr * slopes[1]
    loss = learner.loss(net[0](task.query.x) @ weight.T + bias, task.query.y)
    loss.backward()
    return loss.detach(), [p.grad for p in net.parameters()]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", BACKBONES)
def test_the_loop_written_out_is_descend_on_the_head(kind, first_order, dtype, make, draw, backbones):
    kind, backbone = backbone_of(kind, backbones)
    learner = make(ANIL, kind, dtype=dtype, backbone=backbone, **numbers(STEPS, first_order))

    def shared(support, _random_inputs):
        features = learner.functional_predictor(learner.body, dict(learner.body.named_parameters()), support)
        z = features(support.x)
        embedded = Examples(z.detach() if first_order else z, support.y)
        for head in descend(learner, learner.head, embedded, STEPS, learner.inner_lr, first_order):
            yield lambda x, head=head: head(features(x))

    assert_is_descend(learner, draw(kind, dtype), shared)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_meta_gradient_are_those_of_a_hand_written_loop(kind, steps, first_order, make, draw, one):
    learner, task = make(ANIL, kind, **numbers(steps, first_order)), one(draw(kind))
    loss, gradients = by_hand(learner, task, steps, first_order)
    ours = learner.meta_loss(task)
    ours.backward()
    torch.testing.assert_close(ours.detach(), loss, rtol=1e-12, atol=0)
    for parameter, gradient in zip(whole(learner).parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_second_order_agrees_with_finite_differences(kind, make, draw, slopes_agree):
    slopes_agree(make(ANIL, kind, **numbers(5)), draw(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_body_does_not_move_in_the_inner_loop_and_the_head_does(kind, make, draw, one):
    """Its features of queries are the same after every step, in training and at test; the outer gradient moves it."""
    learner, task = make(ANIL, kind, **numbers(3)), one(draw(kind))
    seen = {"body": [], "head": []}
    for name in seen:
        getattr(learner, name).register_forward_hook(lambda _m, _i, out, name=name: seen[name].append(out.detach()))
    for mode in (True, False):
        predictors = list(learner.train(mode).trajectory(task.support, 3))
        seen["body"], seen["head"] = [], []
        for predict in predictors:
            predict(task.query.x)
        assert all(torch.equal(features, seen["body"][0]) for features in seen["body"])
        assert not any(torch.allclose(a, b) for a, b in zip(seen["head"], seen["head"][1:], strict=False))
    learner.train().meta_loss(task).backward()
    assert all(p.grad.abs().max() > 0 for p in learner.body.parameters() if p.dim() > 1)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_maml_that_moves_the_head_only_from_the_same_weights(kind, make, draw, one):
    ours, task = make(ANIL, kind, **numbers(2)), one(draw(kind))
    maml = make(MAML, kind, **numbers(2))
    rates = {name: maml.inner_lr for name, _ in maml.net.named_parameters() if name.startswith("head")}
    theirs = descend(maml, maml.net, task.support, 2, rates)
    for a, b in zip(ours.trajectory(task.support, 2), theirs, strict=True):
        torch.testing.assert_close(a(task.query.x), b(task.query.x), rtol=1e-12, atol=1e-13)


def test_the_support_set_passes_through_the_body_once(make, draw, one):
    learner, task = make(ANIL, "conv4", **numbers(5)), one(draw("conv4"))
    rows = []
    learner.body.register_forward_hook(lambda _module, inputs, _out: rows.append(len(inputs[0])))
    learner.meta_loss(task)
    assert rows == [len(task.support.x), len(task.query.x)]


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_vmap_is_a_loop(kind, first_order, make, draw, loss_and_gradient):
    learner, batch = make(ANIL, kind, **numbers(2, first_order)), draw(kind)
    together = loss_and_gradient(learner, batch)
    learner.vectorized = False
    torch.testing.assert_close(loss_and_gradient(learner, batch), together, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_compiled_is_eager(make, draw, loss_and_gradient, compiled_loss_and_gradient):
    learner, batch = make(ANIL, "mlp", **numbers(2)), draw("mlp")
    eager = loss_and_gradient(learner, batch)
    torch._dynamo.reset()
    compiled = compiled_loss_and_gradient(learner, batch)
    torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-12)


def test_inductive_prediction_of_one_query_is_that_of_all(make, draw, one):
    learner, task = make(ANIL, "conv4", **numbers(2)).eval(), one(draw("conv4"))
    with torch.no_grad(), inductive(learner):
        predict = learner.adapt(task.support)
        together = predict(task.query.x)
        alone = torch.cat([predict(x.unsqueeze(0)) for x in task.query.x])
    torch.testing.assert_close(alone, together, rtol=1e-10, atol=1e-12)


def test_refuses_steps_that_are_not_a_count(make):
    with pytest.raises(ValueError, match=r"^algo\.eval_steps must be an integer of at least 0; got 1\.5$"):
        make(ANIL, "mlp", inner_steps=1, eval_steps=1.5, first_order=False)


@pytest.mark.slow
def test_it_learns_the_sinusoid_and_a_random_body_under_the_same_head_does_not():
    """The pitfall: a body that the outer loop leaves alone is a random-feature head."""
    scores = {}
    for frozen in (False, True):
        torch.manual_seed(0)
        learner = ANIL(
            toy.mlp(hidden=[40, 40], activation="relu"), 1, torch.nn.functional.mse_loss, inner_lr=0.01, **numbers(1)
        )
        scores["untrained"] = evaluate(learner, toy.sinusoid(), "test", 100, 0).estimate().mean
        learner.body.requires_grad_(not frozen)
        meta_optimizer = toy.adam(lr=3e-3)
        for _ in fit(
            TrainState.create(learner, meta_optimizer, torch.device("cpu"), 0), toy.sinusoid(), meta_optimizer, 1500, 8
        ):
            pass
        scores[frozen] = evaluate(learner, toy.sinusoid(), "test", 100, 0).estimate().mean
    assert scores["untrained"] > 2.4  # no adaptation: predicting nearly zero
    assert scores[True] > 2.4
    assert scores[False] < 1.5
