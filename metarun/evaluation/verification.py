"""Metrics of verification over all pairs pooled: ROC curve (scikit-learn's), equal error rate, accuracy at a threshold.

A pair is called "same" where its score is at least the threshold. The threshold is chosen on validation pairs, never
on the test pairs that it is applied to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from metarun.checks import require
from metarun.evaluation.estimate import bootstrap

POINTS = 200  # of a curve in result.json


class Roc(NamedTuple):
    """Rates of wrongly and of rightly accepted pairs `[n + 1]`; distinct scores `[n]`, falling.

    Point 0 accepts nothing, point k + 1 the pairs that score `scores[k]` or more.
    """

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, same: np.ndarray, weight: np.ndarray | None = None) -> Roc:
        """The curve of scores `[n]`.

        Args:
            scores: of each pair.
            same: whether the pair is of one class, `[n]`.
            weight: how often each pair counts, `[n]`; None: once. Pairs that count zero times add no point.

        Raises:
            ValueError: all pairs are of one kind, or a score is not finite.
        """
        from sklearn.metrics import roc_curve  # a second to import, which only verification pays

        infinite = scores[~np.isfinite(scores)]
        require("scores", infinite[:1].tolist(), not infinite.size, "finite numbers")
        kinds = np.unique(same if weight is None else same[weight > 0])
        require("same", kinds.tolist(), len(kinds) == 2, "of pairs of both kinds")
        wrong, right, thresholds = roc_curve(same, scores, sample_weight=weight, drop_intermediate=False)
        return cls(wrong, right, thresholds[1:])  # the first threshold is infinite: it accepts nothing

    def equal_error_rate(self) -> float:
        """Where as many different pairs are accepted as same ones refused; between two points, on the line."""
        excess = self.false_positive_rate + self.true_positive_rate - 1  # accepted less refused: rises from -1 to 1
        after = int(np.argmax(excess >= 0))
        before, share = after - 1, excess[after] / (excess[after] - excess[after - 1])
        rate = self.false_positive_rate
        return float(rate[after] + share * (rate[before] - rate[after]))

    def thinned(self, points: int = POINTS) -> dict[str, list[float]]:
        """At most this many points, evenly along the curve, with both ends."""
        along = self.false_positive_rate + self.true_positive_rate  # rises from 0 to 2
        kept = np.unique(np.searchsorted(along, np.linspace(0, 2, points)).clip(max=len(along) - 1))
        names = ("false_positive_rate", "true_positive_rate")
        return {name: [round(float(v), 6) for v in getattr(self, name)[kept]] for name in names}


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """The threshold that judges the most pairs `[n]` rightly; of equally good ones the highest.

    Raises:
        ValueError: all pairs are of one kind, or a score is not finite.
    """
    roc = Roc.of(scores, same)
    alike = int(same.sum())
    right = roc.true_positive_rate * alike + (1 - roc.false_positive_rate) * (len(same) - alike)
    return float(roc.scores[np.argmax(np.round(right[1:]))])


def accuracies(scores: np.ndarray, same: np.ndarray, threshold: float) -> np.ndarray:
    """Share of each task's pairs that the threshold judges rightly, `[tasks]`; scores and same are `[tasks, pairs]`."""
    return ((scores >= threshold) == same.astype(bool)).mean(1)


def equal_error(scores: np.ndarray, same: np.ndarray) -> dict[str, float | None]:
    """The equal error rate of all pairs of all tasks `[tasks, pairs]`, in the form of `metrics` in result.json.

    `ci95` is 1.96 times its spread over resampled sets of tasks (bootstrap, always the same resamples): half the width
    of the interval for this one trained learner, as with every other metric. The rate has no value by task, hence no
    median.
    """
    tasks, pairs = scores.shape
    pooled_scores, pooled_same = scores.ravel(), same.ravel()

    def rate(weight: np.ndarray) -> float:
        return Roc.of(pooled_scores, pooled_same, weight.repeat(pairs)).equal_error_rate()

    mean = Roc.of(pooled_scores, pooled_same).equal_error_rate()
    return {"mean": mean, "ci95": bootstrap(tasks, rate), "median": None}


class VerificationResult(NamedTuple):
    """The metrics of verification beside the headline.

    Attributes:
        accuracy: of each task, `[tasks]`.
        eer: the equal error rate, {mean, ci95, median}.
        details: `verification` in result.json.
    """

    accuracy: np.ndarray
    eer: dict[str, float | None]
    details: dict[str, Any]


def evaluate_verification(test: Mapping[str, np.ndarray], val: Mapping[str, np.ndarray]) -> VerificationResult:
    """Metrics of the test pairs, at the threshold that is best for the validation pairs.

    Args:
        test, val: `scores` and `same` of the held-out pairs of each split, `[tasks, pairs]`.

    Raises:
        ValueError: a score is not finite.
    """
    threshold = best_threshold(val["scores"].ravel(), val["same"].ravel())
    scores, same = test["scores"], test["same"]
    eer = equal_error(scores, same)
    curve = Roc.of(scores.ravel(), same.ravel()).thinned()
    details = {"threshold": threshold, "chosen_on": "val", "pairs": scores.size, "eer": eer["mean"], "roc": curve}
    return VerificationResult(accuracies(scores, same, threshold), eer, details)
