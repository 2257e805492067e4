"""Is it MAML? Against finite differences and a hand-written loop; against learn2learn in learn2learn/."""

import copy

import pytest
import torch
from torch_batch_norm import exchange_for_torch
from written_out import DTYPES, STEPS, assert_is_descend, backbone_of
from written_out import KINDS as BACKBONES

from metarun.algos.maml import MAML
from metarun.learner.gradient_descent import descend

KINDS = ["mlp", "conv4"]


def numbers(steps=1, first_order=False):
    return {"inner_steps": steps, "eval_steps": steps, "first_order": first_order}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", BACKBONES)
def test_the_loop_written_out_is_descend(kind, first_order, dtype, make, draw, backbones):
    kind, backbone = backbone_of(kind, backbones)
    learner = make(MAML, kind, dtype=dtype, backbone=backbone, **numbers(STEPS, first_order))

    def shared(support, _random_inputs):
        return descend(learner, learner.net, support, STEPS, learner.inner_lr, first_order)

    assert_is_descend(learner, draw(kind, dtype), shared)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_second_order_agrees_with_finite_differences(kind, steps, make, draw, slopes_agree):
    slopes_agree(make(MAML, kind, **numbers(steps)), draw(kind))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_vmap_is_a_loop(kind, steps, first_order, make, draw, loss_and_gradient):
    learner, batch = make(MAML, kind, **numbers(steps, first_order)), draw(kind)
    together = loss_and_gradient(learner, batch)
    learner.vectorized = False
    one_by_one = loss_and_gradient(learner, batch)
    torch.testing.assert_close(together, one_by_one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_first_order_is_the_query_gradient_at_the_adapted_weights(kind, steps, make, draw, one):
    learner, task = make(MAML, kind, **numbers(steps, first_order=True)), one(draw(kind))
    adapted = copy.deepcopy(learner.net)
    sgd = torch.optim.SGD(adapted.parameters(), lr=float(learner.inner_lr))
    for _ in range(steps):
        sgd.zero_grad()
        learner.loss(adapted(task.support.x), task.support.y).backward()
        sgd.step()
    adapted.zero_grad()
    loss = learner.loss(adapted(task.query.x), task.query.y)
    loss.backward()

    meta_loss = learner.meta_loss(task)
    meta_loss.backward()
    torch.testing.assert_close(meta_loss, loss, rtol=1e-12, atol=0)
    for ours, theirs in zip(learner.net.parameters(), adapted.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_first_and_second_order_differ(kind, make, draw, loss_and_gradient, relative):
    batch = draw(kind)
    second, first = (
        loss_and_gradient(make(MAML, kind, **numbers(1, first_order)), batch) for first_order in (False, True)
    )
    torch.testing.assert_close(first[0], second[0], rtol=1e-12, atol=0)
    assert relative(first[1], second[1]) > 0.01


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_no_steps_is_plain_training(kind, first_order, make, draw, loss_and_gradient):
    learner, batch = make(MAML, kind, **numbers(0, first_order)), draw(kind)
    losses, gradient = loss_and_gradient(learner, batch)
    learner.zero_grad()
    tasks = zip(*batch.query, strict=True)
    plain = torch.stack([learner.loss(learner.net(x), y) for x, y in tasks])
    plain.mean().backward()
    torch.testing.assert_close(losses, plain.detach(), rtol=1e-12, atol=0)
    expected = torch.cat([p.grad.flatten() for p in learner.parameters()])
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_is_eager(kind, make, draw, loss_and_gradient, compiled_loss_and_gradient):
    learner, batch = make(MAML, kind, **numbers(1)), draw(kind)
    eager = loss_and_gradient(learner, batch)
    torch._dynamo.reset()
    compiled = compiled_loss_and_gradient(learner, batch)
    torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-12)


def test_torch_batch_norm_under_vmap_is_wrong_at_second_order(make, draw, loss_and_gradient, relative):
    """Why metarun has its own batch norm; if this fails, torch has fixed its own."""
    batch = draw("conv4")
    for first_order in (False, True):
        learner = make(MAML, "conv4", inner_lr=0.4, **numbers(5, first_order))
        right = loss_and_gradient(learner, batch)
        exchange_for_torch(learner)
        under_vmap = loss_and_gradient(learner, batch)
        learner.vectorized = False
        in_a_loop = loss_and_gradient(learner, batch)
        torch.testing.assert_close(in_a_loop, right, rtol=1e-8, atol=1e-11)
        torch.testing.assert_close(under_vmap[0], right[0], rtol=1e-8, atol=1e-11)
        error = relative(under_vmap[1], right[1])
        assert error < 1e-8 if first_order else error > 0.005


def test_trajectory_gives_every_step_and_each_predictor_stays_at_its_own(make, draw, one):
    learner, task = make(MAML, "conv4", **numbers(3)), one(draw("conv4"))
    with torch.no_grad():
        predictors = list(learner.trajectory(task.support, 3))
        late = [predict(task.query.x) for predict in predictors]
        for steps, prediction in enumerate(late):
            *_, last = learner.trajectory(task.support, steps)
            assert torch.equal(prediction, last(task.query.x))
    assert len(predictors) == 4
    assert not any(torch.allclose(a, b) for a, b in zip(late, late[1:], strict=False))


def test_adapt_takes_inner_steps_in_training_and_eval_steps_in_evaluation(make, draw, one):
    learner = make(MAML, "mlp", inner_steps=1, eval_steps=3, first_order=False)
    task = one(draw("mlp"))
    after = [predict(task.query.x) for predict in learner.trajectory(task.support, 3)]
    assert torch.equal(learner.train().adapt(task.support)(task.query.x), after[1])
    assert torch.equal(learner.eval().adapt(task.support)(task.query.x), after[3])


def test_adapting_leaves_the_meta_parameters_alone_and_helps_on_the_support_set(make, draw):
    learner, batch = make(MAML, "conv4", **numbers(5)), draw("conv4")
    before = copy.deepcopy(learner.state_dict())

    def support_losses(support):
        return torch.stack([learner.loss(p(support.x), support.y) for p in learner.trajectory(support, 5)])

    losses = learner.map_tasks(support_losses, batch.support)
    assert (losses[:, -1] < losses[:, 0]).all()
    torch.testing.assert_close(learner.state_dict(), before, rtol=0, atol=0)


def test_refuses_steps_that_are_not_a_count(make):
    with pytest.raises(ValueError, match=r"^algo\.inner_steps must be an integer of at least 0; got -1$"):
        make(MAML, "mlp", inner_steps=-1, eval_steps=1, first_order=False)
