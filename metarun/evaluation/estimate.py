"""The mean of a metric over held-out tasks, and its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution


class Estimate(NamedTuple):
    """The mean of a metric over tasks and its 95 % interval.

    The interval is for this one trained learner: it says how well its mean over the task distribution is known, and
    nothing about other seeds.

    A task without a finite value has no rank and no place in a mean: leaving it out would hide that the learner blew up
    on it. So with one such task mean, interval and median are NaN, and `not_finite` counts them.

    Attributes:
        mean: over tasks.
        ci95: half the width of the interval, 1.96 standard errors over tasks.
        median: over tasks.
        tasks: how many.
        not_finite: how many of them have no finite value.
    """

    mean: float
    ci95: float
    median: float
    tasks: int
    not_finite: int = 0

    @classmethod
    def of(cls, values: np.ndarray) -> Estimate:
        """The estimate from the metric of each task `[tasks]`; with fewer than two tasks the interval is infinite."""
        tasks = len(values)
        if not_finite := int((~np.isfinite(values)).sum()):
            return cls(math.nan, math.nan, math.nan, tasks, not_finite)
        with np.errstate(over="ignore"):
            spread = float(values.std(ddof=1)) if tasks > 1 else math.inf
        return cls(float(values.mean()), Z95 * spread / math.sqrt(tasks), float(np.median(values)), tasks)

    def as_dict(self) -> dict[str, float]:
        """Mean, interval and median as in result.json; `not_finite` where there are such tasks."""
        row = {"mean": self.mean, "ci95": self.ci95, "median": self.median}
        return row | {"not_finite": self.not_finite} if self.not_finite else row

    def __str__(self) -> str:
        return f"{self.mean:.4g} +- {self.ci95:.2g} ({self.tasks} tasks)"


def bootstrap(tasks: int, statistic: Callable[[np.ndarray], float], resamples: int = 200) -> float:
    """Half the width of the 95 % interval of a statistic of all tasks pooled.

    1.96 times its spread over resampled sets of tasks, always the same ones. Infinite for a single task.

    Args:
        tasks: how many there are.
        statistic: maps how often each task counts `[tasks]` to a number.
        resamples: how many sets.
    """
    if tasks < 2:
        return math.inf
    weights = np.random.default_rng(0).multinomial(tasks, np.full(tasks, 1 / tasks), resamples)
    return Z95 * float(np.std([statistic(weight) for weight in weights], ddof=1))
