"""Vectorised learners against learn2learn's own class: same weights and tasks, same meta-gradient."""

import copy
import subprocess
import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch_batch_norm import exchange_for_torch

from metarun.algos.learn2learn.gradient_based import Learn2LearnMAML
from metarun.algos.maml import MAML
from metarun.layers.norm import inductive


def numbers(steps=1, first_order=False):
    return {"inner_steps": steps, "eval_steps": steps, "first_order": first_order}


TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("kind", ["mlp", "conv4"])
def test_vectorised_agrees_with_learn2learn(kind, steps, first_order, dtype, make, draw, loss_and_gradient, relative):
    """Only weights are shared: learn2learn's side has torch's own batch norm, which is right in a loop."""
    batch = draw(kind, dtype)
    # float32 rounding grows with the step size: after 5 steps of 0.1 it already flips a ReLU here and there
    lr = 0.1 if dtype is torch.float64 else 0.01
    ours = make(MAML, kind, dtype=dtype, inner_lr=lr, **numbers(steps, first_order))
    theirs = make(Learn2LearnMAML, kind, dtype=dtype, seed=1, inner_lr=lr, **numbers(steps, first_order))
    theirs.load_state_dict(ours.state_dict())
    exchange_for_torch(theirs)
    losses, gradient = loss_and_gradient(ours, batch)
    their_losses, their_gradient = loss_and_gradient(theirs, batch)
    assert relative(losses, their_losses) < TOLERANCE[dtype]
    assert relative(gradient, their_gradient) < TOLERANCE[dtype]


def test_it_is_what_a_user_of_learn2learn_writes(make, draw, loss_and_gradient, relative):
    """The loop of learn2learn's examples, with nothing of metarun but weights and tasks."""
    import learn2learn as l2l

    learner, batch = make(Learn2LearnMAML, "conv4", **numbers(5)), draw("conv4")
    maml = l2l.algorithms.MAML(copy.deepcopy(learner.net), lr=float(learner.inner_lr), first_order=False)
    errors = []
    for support_x, support_y, query_x, query_y in zip(*batch.support, *batch.query, strict=True):
        clone = maml.clone()
        for _ in range(5):
            clone.adapt(F.cross_entropy(clone(support_x), support_y))
        error = F.cross_entropy(clone(query_x), query_y)
        error.backward()
        errors.append(error.detach())
    expected = torch.cat([p.grad.flatten() for p in maml.parameters()]) / len(errors)
    losses, gradient = loss_and_gradient(learner, batch)
    assert relative(losses, torch.stack(errors)) < 1e-12
    assert relative(gradient, expected) < 1e-12


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", ["mlp", "conv4"])
def test_evaluates_without_gradients_and_each_predictor_stays_at_its_step(kind, first_order, make, draw, one):
    task = one(draw(kind))
    ours = make(MAML, kind, **numbers(3, first_order)).eval()
    theirs = make(Learn2LearnMAML, kind, **numbers(3, first_order)).eval()
    with torch.no_grad():
        expected = [predict(task.query.x) for predict in ours.trajectory(task.support, 3)]
        predictors = list(theirs.trajectory(task.support, 3))
        predictions = [predict(task.query.x) for predict in predictors]
    torch.testing.assert_close(predictions, expected, rtol=1e-10, atol=1e-12)
    assert not any(prediction.requires_grad for prediction in predictions)
    assert all(p.grad is None for p in theirs.parameters())


def test_inductive_evaluation_reaches_predictors_made_before_it(make, draw, one):
    task = one(draw("conv4"))
    ours, theirs = (make(cls, "conv4", **numbers(2)).eval() for cls in (MAML, Learn2LearnMAML))
    with torch.no_grad():
        predictors = [learner.adapt(task.support) for learner in (ours, theirs)]
        with inductive(ours), inductive(theirs):
            a, b = (predict(task.query.x) for predict in predictors)
        transductive = predictors[1](task.query.x)
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(b, transductive, rtol=1e-3)


@pytest.mark.parametrize("cls", [MAML, Learn2LearnMAML])
def test_support_and_running_norms_train(cls, make, draw, loss_and_gradient, relative, backbones):
    for norm in ("support", "running"):
        backbone = partial(backbones["conv4"], norm=norm)
        learner = make(cls, "conv4", backbone=backbone, **numbers(2))
        reference = make(MAML, "conv4", backbone=backbone, **numbers(2))
        batch = draw("conv4")
        assert relative(loss_and_gradient(learner, batch)[1], loss_and_gradient(reference, batch)[1]) < 1e-10
        learner.after_step()
        reference.after_step()
        torch.testing.assert_close(learner.state_dict(), reference.state_dict(), rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_importing_metarun_does_not_import_learn2learn():
    modules = "metarun.algos.learn2learn.gradient_based, metarun.backbones.resnet12"
    code = f"import sys, {modules}; assert 'learn2learn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
