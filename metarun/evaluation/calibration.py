"""Does a learner know what it does not know? Calibration error and reliability diagram, over all held-out tasks pooled.

Classification: queries are binned by confidence, the probability of the chosen class; in each bin accuracy should be
mean confidence (Guo, Pleiss, Sun, Weinberger 2017, arXiv 1706.04599: expected calibration error, 15 bins).
Regression: of the targets, a share p should lie in the central predictive interval of level p (Kuleshov, Fenner, Ermon
2018, arXiv 1807.00263; they take one-sided intervals); the error is the mean distance over levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from metarun.evaluation.estimate import bootstrap
from metarun.evaluation.metrics import CONFIDENCE, INSIDE, LEVELS


class Calibration(NamedTuple):
    """Of one learner on one set of tasks: `metric` names the error, `error` is {mean, ci95, median}, `diagram` all else.

    `diagram` is a reliability diagram, for result.json: {claimed, found, weight}, lists; `found` would be `claimed`.
    """

    metric: str
    error: dict[str, float | None]
    diagram: dict[str, list[float]]


def calibration(values: Mapping[str, np.ndarray]) -> Calibration | None:
    """From what was counted of each task (`Evaluation.values`); None where nothing tells."""
    if all(name in values for name in CONFIDENCE):
        size, confidence, right = (values[name] for name in CONFIDENCE)

        def ece(weight: np.ndarray) -> float:
            return float(np.abs(weight @ confidence - weight @ right).sum() / (weight @ size).sum())

        filled = size.sum(0) > 0
        total = size.sum(0)[filled]
        claimed, found = confidence.sum(0)[filled] / total, right.sum(0)[filled] / total
        return _of("ece", ece, len(size), claimed, found, total / total.sum())
    if INSIDE in values:
        inside, levels = values[INSIDE], np.array(LEVELS)

        def error(weight: np.ndarray) -> float:
            return float(np.abs(weight @ inside / weight.sum() - levels).mean())

        return _of(
            "calibration_error", error, len(inside), levels, inside.mean(0), np.full(len(levels), 1 / len(levels))
        )
    return None


def _of(
    metric: str, error: Any, tasks: int, claimed: np.ndarray, found: np.ndarray, weight: np.ndarray
) -> Calibration | None:
    """None where a prediction was no number."""
    whole = error(np.ones(tasks))
    if not np.isfinite(whole):
        return None
    points = {"claimed": claimed, "found": found, "weight": weight}
    diagram = {name: [round(float(v), 6) for v in points[name]] for name in points}
    return Calibration(metric, {"mean": whole, "ci95": bootstrap(tasks, error), "median": None}, diagram)
