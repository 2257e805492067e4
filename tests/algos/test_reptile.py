"""Reptile against torch's optimizers in a hand-written loop, and against joint training."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import toy

from metarun.algos.reptile import Reptile
from metarun.evaluation.evaluate import evaluate
from metarun.tasks import Examples
from metarun.training.loop import TrainState, fit

KINDS = ["mlp", "conv4"]
OPTIMIZERS = ["sgd", "adam"]
# A bias before a batch norm has gradient zero; Adam turns its rounding (1e-17, over eps 1e-8) into steps of 1e-10.
ROUNDING = {"rtol": 1e-9, "atol": 1e-8}
THEIRS = {"sgd": torch.optim.SGD, "adam": partial(torch.optim.Adam, betas=(0.0, 0.999))}


def arguments(optimizer="sgd", steps=3, batch=4, eval_batch=None):
    return {
        "inner_lr": 0.02,
        "inner_optimizer": optimizer,
        "inner_steps": steps,
        "eval_steps": steps,
        "inner_batch": batch,
        "eval_batch": eval_batch,
    }


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pooled(task):
    return Examples(torch.cat([task.support.x, task.query.x]), torch.cat([task.support.y, task.query.y]))


def trained_by_hand(learner, examples, rows, steps):
    """The network after `steps` steps of a fresh optimizer of torch; `rows` None: all examples."""
    net = copy.deepcopy(learner.net)
    optimizer = THEIRS[learner.inner_optimizer](net.parameters(), lr=float(learner.inner_lr))
    for step in range(steps):
        x, y = examples if rows is None else (leaf[rows[step]] for leaf in examples)
        optimizer.zero_grad()
        learner.loss(net(x), y).backward()
        optimizer.step()
    return net


def task_at(batch, t):
    return type(batch)(*(Examples(*(leaf[t] for leaf in examples)) for examples in batch))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_the_displacement_and_the_value_the_query_loss(kind, optimizer, make, draw, loss_and_gradient):
    learner, batch = make(Reptile, kind, **arguments(optimizer)), draw(kind)
    random_inputs = learner.random_inputs(batch, 3, generator())
    losses, gradient = loss_and_gradient(learner, batch, lambda batch: learner(batch, random_inputs))
    theta = torch.cat([p.detach().flatten() for p in learner.net.parameters()])
    displacements = []
    for t, loss in enumerate(losses):
        task = task_at(batch, t)
        net = trained_by_hand(learner, pooled(task), random_inputs["pool"][t], 3)
        torch.testing.assert_close(loss, learner.loss(net(task.query.x), task.query.y).detach(), rtol=1e-9, atol=1e-12)
        displacements.append(theta - torch.cat([p.detach().flatten() for p in net.parameters()]))
    torch.testing.assert_close(gradient, torch.stack(displacements).mean(0), **ROUNDING)


@pytest.mark.parametrize("task_micro_batch", [None, 1])
def test_an_outer_step_of_a_run_moves_by_epsilon_times_the_displacement(task_micro_batch, make):
    """theta + epsilon mean(W - theta), through `fit`: a rescaled step, or a sum in place of the mean, fails here."""
    learner, data, meta_optimizer = make(Reptile, "mlp", **arguments("adam")), toy.sinusoid(), toy.sgd(lr=0.25)
    before = copy.deepcopy(learner)
    train_state = TrainState.create(learner, meta_optimizer, torch.device("cpu"), 0)
    step = next(fit(train_state, data, meta_optimizer, 1, 5, task_micro_batch))
    ends = []
    for t in range(5):
        net = trained_by_hand(before, pooled(task_at(step.batch, t)), step.random_inputs["pool"][t], 3)
        ends.append(torch.nn.utils.parameters_to_vector(net.parameters()).detach())
    theta = torch.nn.utils.parameters_to_vector(before.net.parameters()).detach()
    expected = theta + 0.25 * (torch.stack(ends).mean(0) - theta)
    torch.testing.assert_close(torch.nn.utils.parameters_to_vector(learner.net.parameters()).detach(), expected)
    assert (expected - theta).norm() > 1e-3


def test_the_configured_run_uses_sgd_with_a_rate_that_falls_to_zero():
    from hydra import compose, initialize_config_dir

    from metarun.experiment.build import build
    from metarun.experiment.choices import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["algo=reptile", "data=sinusoid", "tracker=none", "run.iterations=1000"])
    components = build(cfg, {"algo": "reptile", "data": "sinusoid", "backbone": "mlp"})
    (optimizer,) = components.meta_optimizer.build(components.learner).values()
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.defaults["momentum"] == optimizer.defaults["weight_decay"] == 0
    assert optimizer.defaults["lr"] == 0.25
    factors = [components.meta_optimizer.factor(i) for i in range(1000)]
    assert factors[0] == 1 and factors[-1] == pytest.approx(0.001) and factors == sorted(factors, reverse=True)


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_is_joint_training(kind, make, draw, loss_and_gradient):
    """k = 1: the gradient is alpha times that of the mean loss over the pooled examples; k = 2: not 2 alpha times."""
    batch = draw(kind)
    for steps in (1, 2):
        learner = make(Reptile, kind, **arguments("sgd", steps, batch=None))
        _, gradient = loss_and_gradient(learner, batch)
        learner.zero_grad()
        losses = [
            learner.loss(learner.net(x), y) for x, y in (pooled(task_at(batch, t)) for t in range(len(batch[0][0])))
        ]
        torch.stack(losses).mean().backward()
        joint = steps * learner.inner_lr * torch.cat([p.grad.flatten() for p in learner.parameters()])
        error = (gradient - joint).norm() / joint.norm()
        assert error < 1e-9 if steps == 1 else error > 0.01


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("eval_batch", [None, 3])
def test_at_test_it_trains_on_the_support_set_alone(optimizer, eval_batch, make, draw):
    learner, batch = make(Reptile, "mlp", **arguments(optimizer, eval_batch=eval_batch)).eval(), draw("mlp")
    random_inputs = learner.random_inputs(batch, 6, generator())
    rows = random_inputs["support"] if eval_batch else [None] * 4
    for t in range(4):
        task = task_at(batch, t)
        task_inputs = {"pool": (), "support": rows[t] if eval_batch else ()}
        predictors = list(learner.trajectory(task.support, 6, task_inputs))
        for steps, predict in enumerate(predictors):
            net = trained_by_hand(learner, task.support, rows[t], steps)
            torch.testing.assert_close(predict(task.query.x), net(task.query.x).detach(), rtol=1e-9, atol=1e-11)


def test_mini_batches_are_taken_from_one_shuffle_after_the_other(make, draw):
    """10 + 10 points in batches of 5: each point once in 4 steps, then again in another order."""
    learner, batch = make(Reptile, "mlp", **arguments(steps=8, batch=5, eval_batch=5)), draw("mlp")
    random_inputs = learner.random_inputs(batch, 4, generator())
    assert random_inputs["pool"].shape == (4, 8, 5) and random_inputs["support"].shape == (4, 4, 5)
    halves = random_inputs["pool"].view(4, 2, 20)
    assert torch.equal(halves.sort(-1).values, torch.arange(20).expand(4, 2, 20))
    assert torch.equal(random_inputs["support"].view(4, 2, 10).sort(-1).values, torch.arange(10).expand(4, 2, 10))
    assert not torch.equal(halves[:, 0], halves[:, 1]) and not torch.equal(halves[0], halves[1])
    larger = make(Reptile, "mlp", **arguments(steps=3, batch=30))  # larger than the set: continues in the next shuffle
    rows = larger.random_inputs(batch, 3, generator())["pool"]
    assert rows.shape == (4, 3, 30) and all(row.bincount().min() >= 1 for row in rows.flatten(0, 1))


def test_each_task_starts_with_fresh_second_moments(make, draw, one):
    learner, task = make(Reptile, "mlp", **arguments("adam", steps=1, batch=None)), one(draw("mlp"))
    first, second = (learner.meta_loss(task) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    first.backward()  # Adam's first step without momentum is alpha, whatever the size of the gradient
    x, y = pooled(task)
    gradient = torch.autograd.grad(learner.loss(learner.net(x), y), learner.net.parameters())
    for parameter, g in zip(learner.net.parameters(), gradient, strict=True):
        torch.testing.assert_close(parameter.grad, learner.inner_lr * g / (g.abs() + 1e-8), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_equals_a_loop(kind, make, draw, loss_and_gradient):
    learner, batch = make(Reptile, kind, **arguments("adam")), draw(kind)
    random_inputs = learner.random_inputs(batch, 3, generator())
    vectorized = loss_and_gradient(learner, batch, lambda batch: learner(batch, random_inputs))
    learner.vectorized = False
    looped = loss_and_gradient(learner, batch, lambda batch: learner(batch, random_inputs))
    torch.testing.assert_close(looped, vectorized, **ROUNDING)


@pytest.mark.slow
def test_compiled_equals_eager(make, draw, loss_and_gradient, compiled_loss_and_gradient):
    learner, batch = make(Reptile, "mlp", **arguments("adam", steps=2)), draw("mlp")
    random_inputs = learner.random_inputs(batch, 2, generator())
    eager = loss_and_gradient(learner, batch, lambda batch: learner(batch, random_inputs))
    torch._dynamo.reset()
    compiled = compiled_loss_and_gradient(learner, batch, random_inputs)
    torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inner_optimizer": "rmsprop"}, "algo.inner_optimizer must be one of sgd, adam; got 'rmsprop'"),
        ({"inner_batch": 0}, "algo.inner_batch must be null or an integer of at least 1; got 0"),
        ({"inner_steps": -1}, "algo.inner_steps must be an integer of at least 0; got -1"),
    ],
)
def test_rejects_invalid_values(change, message, make):
    with pytest.raises(ValueError, match=message):
        make(Reptile, "mlp", **(arguments() | change))


@pytest.mark.slow
def test_it_learns_the_sinusoid_and_one_step_does_not():
    """With k = 1 it is joint training, which must not adapt well."""
    data, scores = toy.sinusoid(shots=10, train_queries=40), {}
    for steps in (8, 1):
        torch.manual_seed(0)
        backbone = toy.mlp(hidden=[64, 64])
        learner = Reptile(backbone, 1, F.mse_loss, **(arguments("sgd", steps, batch=10) | {"eval_steps": 32}))
        scores["untrained"] = evaluate(learner, data, "test", 100, 0).estimate().mean
        meta_optimizer = toy.sgd(lr=0.25, scheduler=toy.linear(1000))
        for _ in fit(TrainState.create(learner, meta_optimizer, torch.device("cpu"), 0), data, meta_optimizer, 1000, 5):
            pass
        scores[steps] = evaluate(learner, data, "test", 100, 0).estimate().mean

    assert scores["untrained"] > 1.0
    assert scores[1] > 1.0
    assert scores[8] < 0.6
