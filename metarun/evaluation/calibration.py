"""Calibration error and reliability diagram, over all held-out tasks pooled.

Classification: queries are binned by confidence, the probability of the chosen class; in each bin accuracy should be
mean confidence (Guo, Pleiss, Sun, Weinberger 2017, arXiv 1706.04599: expected calibration error, 15 bins).
Regression: a share p of the targets should lie in the central predictive interval of level p (Kuleshov, Fenner, Ermon
2018, arXiv 1807.00263; they take one-sided intervals); the error is the mean distance over levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from metarun.evaluation.estimate import bootstrap
from metarun.evaluation.metrics import CONFIDENCE, INSIDE, LEVELS


class Calibration(NamedTuple):
    """Calibration of one learner on one set of tasks.

    Attributes:
        metric: name of the error, `ece` or `calibration_error`.
        error: {mean, ci95, median}.
        diagram: the reliability diagram in the form of result.json, {claimed, found, weight}, lists: confidence or
            level of an interval, what was measured of it (the same, if calibrated), and the share of queries.
    """

    metric: str
    error: dict[str, float | None]
    diagram: dict[str, list[float]]


def calibration(values: Mapping[str, np.ndarray]) -> Calibration | None:
    """Calibration from the counts of each task (`Evaluation.values`); None where there are no such counts."""
    if all(name in values for name in CONFIDENCE):
        return _of_confidence(*(values[name] for name in CONFIDENCE))
    return _of_intervals(values[INSIDE]) if INSIDE in values else None


def _of_confidence(size: np.ndarray, confidence: np.ndarray, right: np.ndarray) -> Calibration | None:
    """From the sums by bin `[tasks, BINS]`."""

    def ece(weight: np.ndarray) -> float:
        return float(np.abs(weight @ confidence - weight @ right).sum() / (weight @ size).sum())

    filled = size.sum(0) > 0
    total = size.sum(0)[filled]
    claimed, accuracy = confidence.sum(0)[filled] / total, right.sum(0)[filled] / total
    return _calibration("ece", ece, len(size), claimed, accuracy, total / total.sum())


def _of_intervals(inside: np.ndarray) -> Calibration | None:
    """From the share of targets inside the interval of each level, `[tasks, LEVELS]`."""
    levels = np.array(LEVELS)

    def error(weight: np.ndarray) -> float:
        return float(np.abs(weight @ inside / weight.sum() - levels).mean())

    weight = np.full(len(levels), 1 / len(levels))
    return _calibration("calibration_error", error, len(inside), levels, inside.mean(0), weight)


def _calibration(
    metric: str,
    error: Callable[[np.ndarray], float],
    tasks: int,
    claimed: np.ndarray,
    measured: np.ndarray,
    weight: np.ndarray,
) -> Calibration | None:
    """None where a prediction was NaN."""
    mean = error(np.ones(tasks))
    if not np.isfinite(mean):
        return None
    points = {"claimed": claimed, "found": measured, "weight": weight}
    diagram = {name: [round(float(v), 6) for v in points[name]] for name in points}
    return Calibration(metric, {"mean": mean, "ci95": bootstrap(tasks, error), "median": None}, diagram)
