"""TODO."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from metarun.learner.learner import Learner

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
}


class MetaOptimizer:
    """How meta-parameters are stepped: an optimizer's class, its learning rate over time, and clipping.

    Args:
        optimizer: factory, `optimizer(params, lr=...)`.
        lr: learning rate at the start.
        schedule: `constant`, `cosine` or `linear` (both to zero at the last iteration), or `halve`.
        halve_every: iterations between two halvings under `halve`.
        max_grad_norm: largest norm of each optimizer's gradient, or None.
        max_grad_value: largest absolute value of each of its entries, or None (MAML on mini-ImageNet: 10).

    Raises:
        ValueError: an unknown schedule, a rate or bound that is not positive, or `halve` without `halve_every`.
    """

    def __init__(
        self,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr: float,
        schedule: str,
        halve_every: int | None,
        max_grad_norm: float | None,
        max_grad_value: float | None,
    ) -> None:
        if schedule not in (*SCHEDULES, "halve"):
            raise ValueError(f"optimizer.schedule must be one of {', '.join((*SCHEDULES, 'halve'))}; got {schedule!r}")
        if (schedule == "halve") != (halve_every is not None):
            raise ValueError("optimizer.halve_every goes with optimizer.schedule=halve, and only with it")
        bounds = {
            "lr": lr,
            "halve_every": halve_every,
            "max_grad_norm": max_grad_norm,
            "max_grad_value": max_grad_value,
        }
        for name, value in bounds.items():
            if value is not None and not value > 0:
                raise ValueError(f"optimizer.{name} must be above 0; got {value}")
        self.optimizer, self.lr, self.schedule, self.halve_every = optimizer, lr, schedule, halve_every
        self.max_grad_norm, self.max_grad_value = max_grad_norm, max_grad_value

    def factor(self, iteration: int, iterations: int) -> float:
        """What the learning rate is multiplied with in iteration 0, 1, ..., `iterations` - 1."""
        if self.halve_every is not None:
            return 0.5 ** (iteration // self.halve_every)
        return SCHEDULES[self.schedule](iteration / iterations)

    def build(self, learner: Learner) -> dict[str, torch.optim.Optimizer]:
        """One optimizer for each of the learner's parameter groups that holds any parameter."""
        return {
            group["name"]: group.get("optimizer", self.optimizer)(group["params"], lr=group.get("lr", self.lr))
            for group in learner.parameter_groups()
            if group["params"]
        }

    def step(self, optimizer: torch.optim.Optimizer, factor: float) -> None:
        """Clip this optimizer's gradients and step it at `factor` times its initial learning rate."""
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
            if self.max_grad_value is not None:
                nn.utils.clip_grad_value_(group["params"], self.max_grad_value)
            if self.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(group["params"], self.max_grad_norm)
        optimizer.step()


def steps_group(objective: str, group: str) -> bool:
    """Whether an objective steps the parameter group of that name; `all`, of either, goes with every other."""
    return objective == group or "all" in (objective, group)
