"""Learning rates over time are torch's, as functions of the iteration; clipping; what is refused."""

from __future__ import annotations

import math
import warnings
from functools import partial

import pytest
import torch
import toy
from torch.optim import lr_scheduler

from metarun.training.loop import TrainState, fit
from metarun.training.meta_optimizer import MetaOptimizer, steps_group

CPU = torch.device("cpu")
SCHEDULERS = {
    "cosine": partial(lr_scheduler.CosineAnnealingLR, T_max=200, eta_min=0.1),
    "linear": partial(lr_scheduler.LinearLR, start_factor=0.5, end_factor=0.0, total_iters=150),
    "constant factor": partial(lr_scheduler.ConstantLR, factor=0.25, total_iters=30),
    "step": partial(lr_scheduler.StepLR, step_size=30, gamma=0.5),
    "exponential": partial(lr_scheduler.ExponentialLR, gamma=0.99),
    "multi-step": partial(lr_scheduler.MultiStepLR, milestones=[20, 20, 150], gamma=0.1),
    "polynomial": partial(lr_scheduler.PolynomialLR, total_iters=200, power=2.0),
    "one cycle": partial(lr_scheduler.OneCycleLR, max_lr=2.0, total_steps=200, cycle_momentum=False),
    "one cycle, three phases": partial(
        lr_scheduler.OneCycleLR,
        max_lr=2.0,
        total_steps=200,
        cycle_momentum=False,
        three_phase=True,
        anneal_strategy="linear",
    ),
    "warm restarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=30, T_mult=1, eta_min=0.01),
    "longer and longer restarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=1, T_mult=3),
}


def stepped(factory: partial, iterations: int) -> list[float]:
    """The rates of torch's scheduler as it is meant to be used, for an optimizer of the rate 1."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = factory(optimizer)
    rates = []
    for _ in range(iterations):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_factor_is_the_rate_that_torch_steps_to(name):
    meta_optimizer = toy.adam(scheduler=SCHEDULERS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        factors = [meta_optimizer.factor(i) for i in range(200)]
    assert factors == pytest.approx(stepped(SCHEDULERS[name], 200), rel=1e-9, abs=1e-12)
    assert len(set(factors)) > 1


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_factor_depends_on_the_iteration_alone(name):
    """A resumed run asks for iteration 150 first; an unbroken one has asked for all before it."""
    unbroken, resumed = (toy.adam(scheduler=SCHEDULERS[name]) for _ in range(2))
    expected = [unbroken.factor(i) for i in range(200)]
    assert [resumed.factor(i) for i in reversed(range(200))] == expected[::-1]


@pytest.mark.parametrize("iterations", [7, 1000, 3000])
def test_factors_are_those_of_earlier_versions(iterations):
    """Linear and halving to the last bit, cosine but for one rounding of a number below 1."""
    cosine, linear = toy.adam(scheduler=toy.cosine(iterations)), toy.adam(scheduler=toy.linear(iterations))
    halving = toy.adam(scheduler=partial(lr_scheduler.StepLR, step_size=3, gamma=0.5))
    for i in range(iterations):
        progress = i / iterations
        assert cosine.factor(i) == pytest.approx(0.5 * (1 + math.cos(math.pi * progress)), rel=0, abs=2.3e-16)
        assert linear.factor(i) == 1 - progress
        assert halving.factor(i) == 0.5 ** (i // 3)


def test_restarts_come_where_torchs_own_jump_to_an_epoch_misses_one():
    """`step(epoch)` takes the period from a logarithm: log(243, 3) is less than 5."""
    factory = SCHEDULERS["longer and longer restarts"]
    meta_optimizer = toy.adam(scheduler=factory)
    restarts = [0, 1, 4, 13, 40, 121]
    assert [i for i in range(200) if meta_optimizer.factor(i) == 1.0] == restarts
    scheduler = factory(torch.optim.SGD([torch.zeros(1)], lr=1.0))
    scheduler.step(121)
    assert scheduler.get_last_lr() == [0.0]


def test_one_cycle_stays_at_its_last_rate():
    meta_optimizer = toy.adam(scheduler=SCHEDULERS["one cycle"])
    assert meta_optimizer.factor(500) == meta_optimizer.factor(199) == pytest.approx(2.0 / 25 / 1e4)


def test_without_a_scheduler_the_rate_is_constant():
    assert {toy.adam().factor(i) for i in (0, 1, 10**6)} == {1.0}


def test_the_scheduler_reaches_the_optimizer():
    learner, meta_optimizer = toy.seeded(toy.maml), toy.sgd(lr=0.1, scheduler=toy.linear(4))
    state = TrainState.create(learner, meta_optimizer, CPU, seed=0)
    rates = [state.optimizers["meta"].param_groups[0]["lr"] for _ in fit(state, toy.sinusoid(), meta_optimizer, 4, 2)]
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])


@pytest.mark.parametrize("bound", [{"max_grad_norm": 1e-3}, {"max_grad_value": 1e-3}])
def test_clipping_bounds_the_step(bound):
    learner, meta_optimizer = toy.seeded(toy.maml), toy.sgd(lr=1.0, **bound)
    before = torch.nn.utils.parameters_to_vector(learner.parameters()).detach()
    next(fit(TrainState.create(learner, meta_optimizer, CPU, seed=0), toy.sinusoid(), meta_optimizer, 1, 6))
    moved = torch.nn.utils.parameters_to_vector(learner.parameters()).detach() - before
    size = moved.norm() if "max_grad_norm" in bound else moved.abs().max()
    assert size.item() == pytest.approx(1e-3, rel=1e-2)


def cosine(**arguments) -> partial:
    return partial(lr_scheduler.CosineAnnealingLR, **arguments)


BAD = {
    "a rate of 0": ({"lr": 0}, "optimizer.lr must be above 0; got 0"),
    "a negative norm": ({"max_grad_norm": -1}, "optimizer.max_grad_norm must be above 0; got -1"),
    "a value of 0": ({"max_grad_value": 0}, "optimizer.max_grad_value must be above 0; got 0"),
    "half an iteration": (
        {"scheduler": cosine(T_max=2.5)},
        "scheduler.T_max must be an integer of at least 1; got 2.5",
    ),
    "a negative rate": ({"scheduler": cosine(T_max=9, eta_min=-1)}, "scheduler.eta_min must be at least 0; got -1"),
    "no step size": (
        {"scheduler": partial(lr_scheduler.StepLR, step_size=None)},
        "scheduler.step_size must be an integer of at least 1; got None",
    ),
    "a factor of 0": (
        {"scheduler": partial(lr_scheduler.StepLR, step_size=1, gamma=0)},
        "scheduler.gamma must be above 0; got 0",
    ),
    "no milestones": (
        {"scheduler": partial(lr_scheduler.MultiStepLR, milestones=None)},
        "scheduler.milestones must be a list of integers of at least 1; got None",
    ),
    "momentum": (
        {"scheduler": partial(lr_scheduler.OneCycleLR, max_lr=1.0, total_steps=9, cycle_momentum=True)},
        "scheduler.cycle_momentum must be false: only the rate is scheduled; got True",
    ),
    "a plateau": ({"scheduler": lr_scheduler.ReduceLROnPlateau}, "scheduler must be .*; got 'ReduceLROnPlateau'"),
    "a rate from the last one": (
        {"scheduler": partial(lr_scheduler.CyclicLR, base_lr=0.1, max_lr=1.0)},
        "scheduler must be a class of torch whose rate is a function of the iteration alone .*; got 'CyclicLR'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_sense_is_refused_by_name(name):
    arguments, message = BAD[name]
    with pytest.raises(ValueError, match=f"^{message}$"):
        toy.adam(**arguments)


def test_an_objective_steps_the_group_of_its_name_and_all():
    assert steps_group("first", "first") and steps_group("all", "first") and steps_group("first", "all")
    assert not steps_group("first", "second")


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.SparseAdam])
def test_an_optimizer_that_wants_more_than_a_gradient_is_refused(kind):
    with pytest.raises(ValueError, match=f"^optimizer.optimizer must be an optimizer that .*; got '{kind.__name__}'$"):
        MetaOptimizer(partial(kind), 0.1, None, None, None)


def test_arguments_that_contradict_each_other_are_refused_by_the_optimizers_key():
    meta_optimizer = MetaOptimizer(partial(torch.optim.SGD, nesterov=True, momentum=0.0), 0.1, None, None, None)
    with pytest.raises(ValueError, match=r"^optimizer.optimizer must be .*Nesterov.*; got {'nesterov': True, 'mom"):
        meta_optimizer.build(toy.maml())
