"""How meta-parameters are stepped: torch's optimizers and learning-rate schedulers, and gradient clipping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LRScheduler, OneCycleLR

from metarun.checks import is_int, require, require_int, require_non_negative, require_positive
from metarun.learner.learner import Learner

# Arguments of torch's schedulers, most of which torch does not check.
LENGTHS = ("T_max", "T_0", "T_mult", "step_size", "total_iters", "total_steps")
POSITIVE = ("gamma", "power", "max_lr", "div_factor", "final_div_factor")


class MetaOptimizer:
    """An optimizer's class, its learning rate over time, and clipping.

    Args:
        optimizer: factory, `optimizer(params, lr=...)`.
        lr: initial learning rate.
        scheduler: factory of one of torch's schedulers, `scheduler(optimizer)`; None: the rate is constant. It is built
            for a rate of 1, so rates among its arguments (`eta_min`, `max_lr`) are multiples of `lr`.
        max_grad_norm: largest norm of each optimizer's gradient, or None.
        max_grad_value: largest absolute value of each of its entries, or None (MAML on mini-ImageNet: 10).

    Raises:
        ValueError: a rate or bound that is not positive, or a scheduler that is no function of the iteration.
    """

    def __init__(
        self,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr: float,
        scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None,
        max_grad_norm: float | None,
        max_grad_value: float | None,
    ) -> None:
        bounds = {"max_grad_norm": max_grad_norm, "max_grad_value": max_grad_value}
        require_positive("optimizer", lr=lr, **{name: bound for name, bound in bounds.items() if bound is not None})
        self.optimizer, self.lr = optimizer, lr
        _require_gradient_steps(optimizer)
        self.scheduler = None if scheduler is None else build_scheduler(scheduler)
        self.max_grad_norm, self.max_grad_value = max_grad_norm, max_grad_value

    def factor(self, iteration: int) -> float:
        """What the initial learning rate is multiplied with in iteration 0, 1, ...; of the iteration alone."""
        return 1.0 if self.scheduler is None else rate_at(self.scheduler, iteration)

    def build(self, learner: Learner) -> dict[str, torch.optim.Optimizer]:
        """One optimizer for each of the learner's parameter groups that holds any parameter.

        Raises:
            ValueError: the optimizer's class refuses its arguments.
        """
        try:
            return {
                group["name"]: group.get("optimizer", self.optimizer)(group["params"], lr=group.get("lr", self.lr))
                for group in learner.parameter_groups()
                if group["params"]
            }
        except (ValueError, TypeError, RuntimeError) as error:
            arguments = getattr(self.optimizer, "keywords", {})
            what = f"a class of torch.optim with arguments that it takes ({error})"
            raise ValueError(f"optimizer.optimizer must be {what}; got {arguments}") from error

    def step(self, optimizer: torch.optim.Optimizer, factor: float) -> None:
        """Clip this optimizer's gradients and step it at `factor` times its initial learning rate."""
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
            if self.max_grad_value is not None:
                nn.utils.clip_grad_value_(group["params"], self.max_grad_value)
            if self.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(group["params"], self.max_grad_norm)
        optimizer.step()


def _require_gradient_steps(optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    """Refuse torch's optimizers that want more of a step than a dense gradient.

    Raises:
        ValueError: it is one of them.
    """
    kind = getattr(optimizer, "func", optimizer)
    special = isinstance(kind, type) and issubclass(kind, torch.optim.LBFGS | torch.optim.SparseAdam)
    name = getattr(kind, "__name__", "optimizer")
    require("optimizer.optimizer", name, not special, "an optimizer that steps by a dense gradient alone")


def build_scheduler(factory: Callable[[torch.optim.Optimizer], LRScheduler]) -> LRScheduler:
    """A scheduler of the rate 1, for `rate_at`.

    Raises:
        ValueError: an argument is out of its range, or the rate is no function of the iteration.
    """
    _check_arguments(getattr(factory, "keywords", {}))
    scheduler = factory(torch.optim.SGD([torch.zeros(1)], lr=1.0))
    require(
        "scheduler",
        type(scheduler).__name__,
        hasattr(scheduler, "_get_closed_form_lr") or isinstance(scheduler, OneCycleLR | CosineAnnealingWarmRestarts),
        "a class of torch whose rate is a function of the iteration alone (one with a closed form, OneCycleLR or "
        "CosineAnnealingWarmRestarts)",
    )
    scheduler._get_lr_called_within_step = True  # get_lr warns where `step` does not call it
    return scheduler


def _check_arguments(arguments: dict[str, Any]) -> None:
    require_int("scheduler", minimum=1, **{name: arguments[name] for name in LENGTHS if name in arguments})
    require_positive("scheduler", **{name: arguments[name] for name in POSITIVE if name in arguments})
    require_non_negative("scheduler", eta_min=arguments.get("eta_min", 0.0))
    milestones = arguments.get("milestones", [1])
    integers = isinstance(milestones, list | tuple) and milestones and all(is_int(entry, 1) for entry in milestones)
    require("scheduler.milestones", milestones, integers, "a list of integers of at least 1")
    momentum = arguments.get("cycle_momentum", False)
    require("scheduler.cycle_momentum", momentum, momentum is False, "false: only the rate is scheduled")


def rate_at(scheduler: Any, iteration: int) -> float:
    """A scheduler's rate in an iteration, without stepping through those before it.

    Most of torch's schedulers, stepped, compute a rate from the last one: a resumed run would need their state, and
    rounding errors add up. Their closed form needs the iteration only.
    """
    scheduler.last_epoch = iteration
    if isinstance(scheduler, OneCycleLR):
        scheduler.last_epoch = min(iteration, scheduler.total_steps - 1)  # past its end it would raise
        return float(scheduler.get_lr()[0])
    if isinstance(scheduler, CosineAnnealingWarmRestarts):
        scheduler.T_cur, scheduler.T_i = _since_restart(iteration, scheduler.T_0, scheduler.T_mult)
        return float(scheduler.get_lr()[0])
    return float(scheduler._get_closed_form_lr()[0])


def _since_restart(iteration: int, period: int, multiplier: int) -> tuple[int, int]:
    """Iterations since the last restart, and the length of the period they are in.

    The scheduler's own `step(epoch)` finds the period by a logarithm, which rounds to the wrong one at some restarts.
    """
    if multiplier == 1:
        return iteration % period, period
    while iteration >= period:
        iteration, period = iteration - period, period * multiplier
    return iteration, period


def steps_group(objective: str, group: str) -> bool:
    """Whether an objective steps the parameter group of that name; `all`, of either, goes with every other."""
    return objective == group or "all" in (objective, group)
