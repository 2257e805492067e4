"""Metrics of one task's predictions, and counts of each task that are pooled over all tasks.

Everything here is torch that runs under vmap, for all tasks of a batch at once and on their device (the area under the
ROC curve too, where scikit-learn's would need a copy to the CPU and a loop over tasks). `Evaluation` takes means and
intervals over tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metarun.learner.prediction import Gaussian, Prediction, Samples, correctness
from metarun.tasks import Kind, Pairs, Presentations

BINS = 15  # of confidence, equally wide (Guo et al. 2017, arXiv 1706.04599)
LEVELS = tuple(round(0.05 * k, 2) for k in range(1, 20))  # of central predictive intervals
PAIRS = ("scores", "same")  # values of each pair `[tasks, pairs]`: no metric of a task, pooled over all tasks
CONFIDENCE = ("bin_size", "bin_confidence", "bin_correct")  # sums over a task's queries by confidence, `[tasks, BINS]`
INSIDE = "inside"  # share of a task's targets in the central interval of each level, `[tasks, LEVELS]`
POOLED = (*PAIRS, *CONFIDENCE, INSIDE)


def log_probabilities(prediction: Prediction) -> Tensor:
    """`[n, ways]` of class scores; those of samples are averaged as probabilities."""
    if isinstance(prediction, Samples):
        return prediction.values.log_softmax(-1).logsumexp(0) - log(len(prediction.values))
    assert isinstance(prediction, Tensor)  # a Gaussian is for regression
    return prediction.log_softmax(-1)


def classification(prediction: Prediction, y: Tensor, variance: Tensor) -> dict[str, Tensor]:
    """Accuracy and negative log-likelihood (nats) of the classes `y [n]`; NaN where a score is not finite."""
    del variance  # probabilities come from the scores
    log_p = log_probabilities(prediction)
    return {"accuracy": correctness(log_p, y).mean(), "nll": -log_p.gather(-1, y.unsqueeze(-1)).mean()}


def regression(prediction: Prediction, y: Tensor, variance: Tensor) -> dict[str, Tensor]:
    """Mean squared error of the (mean) prediction; negative log-likelihood and `coverage` of its distribution.

    `coverage` is the share of targets in the central 95 % interval: a larger one means too wide a distribution, a
    smaller one too narrow. A point prediction, or samples without a variance, counts as normal with `variance`; where
    that is NaN, so are both metrics.
    """
    means, variances = components(prediction, variance)
    square = (y - means).square() / variances
    log_density = -0.5 * (square + (2 * pi * variances).log())  # torch's own fails under vmap
    nll = -(log_density.logsumexp(0) - log(len(means))).mean()
    return {
        "mse": F.mse_loss(means.mean(0), y),
        "nll": nll,
        "coverage": _within(quantile(prediction, y, variance), 0.95),
    }


def components(prediction: Prediction, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Means and variances `[S, n, d]` of the equally weighted normal distributions that make up a prediction."""
    if isinstance(prediction, Gaussian):
        return prediction.mean.unsqueeze(0), prediction.variance.unsqueeze(0)
    if isinstance(prediction, Samples):
        variance = variance if prediction.variance is None else prediction.variance
        return prediction.values, variance.expand(prediction.values.shape)
    return prediction.unsqueeze(0), variance.expand(1, *prediction.shape)


def quantile(prediction: Prediction, y: Tensor, variance: Tensor) -> Tensor:
    """Share of the predictive distribution below each target, `[n, d]`: uniform on (0, 1) for a right distribution."""
    means, variances = components(prediction, variance)
    return (0.5 * (1 + torch.erf((y - means) / (2 * variances).sqrt()))).mean(0)


def _within(below: Tensor, level: float) -> Tensor:
    inside = ((2 * below - 1).abs() <= level).to(below.dtype)
    return torch.where(below.isnan(), torch.nan, inside).mean()


def confidence(prediction: Prediction, y: Tensor, variance: Tensor) -> dict[str, Tensor]:
    """By bin of confidence (probability of the chosen class): number of queries, sum of confidences, right queries."""
    del variance
    log_p = log_probabilities(prediction)
    sure, right = log_p.amax(-1).exp(), correctness(log_p, y)
    edges = torch.arange(1, BINS, device=y.device, dtype=sure.dtype) / BINS
    index = (sure.unsqueeze(-1) > edges).sum(-1)  # [n]; a confidence on an edge belongs to the lower bin
    one_hot = (index.unsqueeze(-1) == torch.arange(BINS, device=y.device)).to(sure.dtype)
    counts = (one_hot.sum(0), (one_hot * sure.unsqueeze(-1)).sum(0), (one_hot * right.unsqueeze(-1)).sum(0))
    return dict(zip(CONFIDENCE, counts, strict=True))


def inside(prediction: Prediction, y: Tensor, variance: Tensor) -> dict[str, Tensor]:
    """Share of targets within the central predictive interval of each of `LEVELS`."""
    below = quantile(prediction, y, variance)
    return {INSIDE: torch.stack([_within(below, level) for level in LEVELS])}


MetricFn = Callable[[Any, Tensor, Tensor], dict[str, Tensor]]  # metric(prediction, y, variance)
METRICS: dict[Kind, MetricFn] = {"classification": classification, "regression": regression}
CALIBRATION: dict[Kind, MetricFn] = {"classification": confidence, "regression": inside}


# ---------------------------------------------------------------------------------------- shown one by one


def sequence_metrics(scores: Tensor, batch: Presentations, ways: int) -> dict[str, Tensor]:
    """Metrics `[T, 1]` of class scores `[T, n, ways]`, each made before the label was shown.

    `instance_k` is the accuracy where a class is seen for the k-th time. The headline and `nll` are those of the
    items that `batch.scored` marks, `accuracy_all` is that of all items.
    """
    log_p = scores.log_softmax(-1)
    right = correctness(log_p, batch.y)
    nll = -log_p.gather(-1, batch.y.unsqueeze(-1)).squeeze(-1)

    def mean_over(values: Tensor, chosen: Tensor) -> Tensor:
        total = torch.where(chosen, values, 0.0).sum(1, keepdim=True)  # NaN elsewhere does not count
        return total / chosen.sum(1, keepdim=True).to(values.dtype)

    columns = {
        "accuracy": mean_over(right, batch.scored),
        "nll": mean_over(nll, batch.scored),
        "accuracy_all": right.mean(1, keepdim=True),
    }
    occurrence = instances(batch.y, ways)
    for k in range(1, batch.y.shape[1] // ways + 1):
        columns[f"instance_{k}"] = mean_over(right, occurrence == k)
    return columns


def instances(y: Tensor, ways: int) -> Tensor:
    """Occurrence index of each item within its class, from 1: `y [T, n]` -> `[T, n]`."""
    one_hot = y.unsqueeze(-1) == torch.arange(ways, device=y.device)
    return (one_hot.cumsum(1) * one_hot).sum(-1)


# -------------------------------------------------------------------------------------------- verification


def verification(scores: Tensor, pairs: Pairs) -> dict[str, Tensor]:
    """Area under the ROC curve `[1]` of a set of pairs, with the values of each pair that `PAIRS` names."""
    return {"auc": area_under_roc(scores, pairs.y).unsqueeze(0), "scores": scores, "same": pairs.y.to(scores.dtype)}


def area_under_roc(scores: Tensor, y: Tensor) -> Tensor:
    """Share of (same, different) pairs of pairs in which the same one scores higher; ties count half (Mann-Whitney).

    NaN where a score is not finite, or where `y` holds one kind only.
    """
    ordered, same = scores.sort().values, y.to(scores.dtype)
    below, upto = (torch.searchsorted(ordered, scores, right=right).to(scores.dtype) for right in (False, True))
    pairs, alike = len(scores), same.sum()
    ranks = (below + upto + 1) / 2  # from 1; tied scores share the mean of their ranks
    area = ((ranks * same).sum() - alike * (alike + 1) / 2) / (alike * (pairs - alike))
    return torch.where(scores.isfinite().all(), area, torch.nan)
