"""What verification is judged by, over all pairs pooled: ROC curve, equal error rate, a threshold and what it is worth.

A pair is called "same" where its score is at least the threshold. The threshold is chosen on validation pairs and
never on the pairs that it is judged on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from metarun.evaluation.estimate import bootstrap

POINTS = 200  # of a curve that is written down


class Roc(NamedTuple):
    """Rates of wrongly and of rightly accepted pairs `[n + 1]`; distinct scores `[n]`, falling.

    Point 0 accepts nothing, point k + 1 the pairs that score `scores[k]` or more.
    """

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, same: np.ndarray, weight: np.ndarray | None = None) -> Roc:
        """From scores `[n]`, whether the pairs are of one class `[n]`, and how often each pair counts `[n]` (once).

        Raises:
            ValueError: all pairs are of one kind, or a score is NaN.
        """
        if np.isnan(scores).any():
            raise ValueError("scores must be numbers, got NaN")
        order = np.argsort(-scores, kind="stable")
        scores, same = scores[order], same[order].astype(bool)
        counts = np.ones(len(scores)) if weight is None else weight[order]
        last = np.append(scores[1:] != scores[:-1], True)  # of equal scores: they are accepted together
        wrong, right = (np.append(0.0, np.cumsum(counts * kind)[last]) for kind in (~same, same))
        if not (wrong[-1] and right[-1]):
            raise ValueError("an ROC curve takes pairs of both kinds, got one kind only")
        return cls(wrong / wrong[-1], right / right[-1], scores[last])

    def equal_error_rate(self) -> float:
        """Where as many different pairs are accepted as same ones refused; between two points, on the line."""
        excess = self.false_positive_rate + self.true_positive_rate - 1  # accepted less refused: rises from -1 to 1
        after = int(np.argmax(excess >= 0))
        before, share = after - 1, excess[after] / (excess[after] - excess[after - 1])
        rate = self.false_positive_rate
        return float(rate[after] + share * (rate[before] - rate[after]))

    def thinned(self, points: int = POINTS) -> dict[str, list[float]]:
        """At most so many points, evenly along the curve, its ends among them."""
        along = self.false_positive_rate + self.true_positive_rate  # rises from 0 to 2
        kept = np.unique(np.searchsorted(along, np.linspace(0, 2, points)).clip(max=len(along) - 1))
        names = ("false_positive_rate", "true_positive_rate")
        return {name: [round(float(v), 6) for v in getattr(self, name)[kept]] for name in names}


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """The score from which on to say "same" so that the most pairs `[n]` are judged rightly; of equals the highest.

    Raises:
        ValueError: all pairs are of one kind, or a score is NaN.
    """
    roc = Roc.of(scores, same)
    alike = int(same.sum())
    right = roc.true_positive_rate * alike + (1 - roc.false_positive_rate) * (len(same) - alike)
    return float(roc.scores[np.argmax(np.round(right[1:]))])


def accuracies(scores: np.ndarray, same: np.ndarray, threshold: float) -> np.ndarray:
    """Share of each task's pairs that the threshold judges rightly, `[tasks]`; scores and same are `[tasks, pairs]`."""
    return ((scores >= threshold) == same.astype(bool)).mean(1)


def equal_error(scores: np.ndarray, same: np.ndarray) -> dict[str, float | None]:
    """The equal error rate of all pairs of all tasks `[tasks, pairs]`, as `metrics` in result.json has it.

    `ci95` is 1.96 times its spread over resampled sets of tasks (bootstrap, always the same resamples): half of the
    interval for this one trained learner, as with every other metric. It has no value by task, hence no median.
    """
    tasks, pairs = scores.shape
    flat, alike = scores.ravel(), same.ravel()

    def rate(weight: np.ndarray) -> float:
        return Roc.of(flat, alike, weight.repeat(pairs)).equal_error_rate()

    return {"mean": Roc.of(flat, alike).equal_error_rate(), "ci95": bootstrap(tasks, rate), "median": None}


class VerificationResult(NamedTuple):
    """What verification comes to beside the headline: accuracy of each task `[tasks]`, and what result.json says."""

    accuracy: np.ndarray
    eer: dict[str, float | None]
    details: dict[str, Any]


def evaluate_verification(test: Mapping[str, np.ndarray], val: Mapping[str, np.ndarray]) -> VerificationResult:
    """Judge test pairs, at the threshold that is best for validation pairs.

    Args:
        test, val: `scores` and `same` of each part's held-out pairs, `[tasks, pairs]`.

    Raises:
        ValueError: a score is NaN.
    """
    threshold = best_threshold(val["scores"].ravel(), val["same"].ravel())
    scores, same = test["scores"], test["same"]
    eer = equal_error(scores, same)
    curve = Roc.of(scores.ravel(), same.ravel()).thinned()
    details = {"threshold": threshold, "chosen_on": "val", "pairs": scores.size, "eer": eer["mean"], "roc": curve}
    return VerificationResult(accuracies(scores, same, threshold), eer, details)
