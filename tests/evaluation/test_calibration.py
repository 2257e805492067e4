"""Calibration against scikit-learn, known answers, and wrong ways of pooling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from referees import calibration_curve

from metarun.evaluation.calibration import calibration
from metarun.evaluation.metrics import BINS, confidence, inside
from metarun.learner.prediction import Gaussian

UNKNOWN = torch.tensor(torch.nan)


def tasks_of(metric, predictions, targets):
    rows = [metric(p, y, UNKNOWN) for p, y in zip(predictions, targets, strict=True)]
    return {name: np.stack([row[name].numpy() for row in rows]) for name in rows[0]}


def binary(tasks=40, queries=50, sharpness=1.0, seed=0):
    """Two classes; the second has the claimed probability if `sharpness` is one."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(tasks, queries, generator=generator, dtype=torch.float64)
    y = (torch.rand(tasks, queries, generator=generator, dtype=torch.float64) < p).long()
    logit = sharpness * (p / (1 - p)).log()
    return torch.stack([torch.zeros_like(logit), logit], -1), y


def test_bins_are_scikit_learns():
    scores, y = binary()
    result = calibration(tasks_of(confidence, scores, y))
    sure, chosen = scores.softmax(-1).flatten(0, 1).max(-1)
    right = (chosen == y.flatten()).numpy()
    accuracy, mean = calibration_curve(right, sure.numpy(), n_bins=BINS)
    np.testing.assert_allclose(result.diagram["claimed"], mean, atol=1e-6)
    np.testing.assert_allclose(result.diagram["found"], accuracy, atol=1e-6)
    by_hand = sum(w * abs(a - b) for w, a, b in zip(result.diagram["weight"], accuracy, mean, strict=True))
    assert result.metric == "ece" and result.error["mean"] == pytest.approx(by_hand, abs=1e-5)


def test_a_calibrated_learner_has_no_error_and_one_too_sure_or_too_unsure_has():
    right, sure, unsure = (calibration(tasks_of(confidence, *binary(200, 50, s))) for s in (1.0, 4.0, 0.2))
    assert right.error["mean"] < 0.02
    assert sure.error["mean"] > 0.1 < unsure.error["mean"]
    assert sure.diagram["claimed"][-2] > sure.diagram["found"][-2]
    assert unsure.diagram["claimed"][0] < unsure.diagram["found"][0]


def test_errors_of_tasks_do_not_cancel_bin_by_bin_but_are_pooled():
    """Two tasks, one too sure and one not sure enough by as much: together they are calibrated."""
    logit = torch.log(torch.tensor(0.75 / 0.25))
    scores = torch.stack([logit, torch.zeros(())]).expand(2, 4, 2)
    y = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1]])
    assert calibration(tasks_of(confidence, scores, y)).error["mean"] == pytest.approx(0, abs=1e-6)
    assert calibration(tasks_of(confidence, scores[:1], y[:1])).error["mean"] == pytest.approx(0.25)


def test_intervals_that_hold_their_share_have_no_error():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(200, 50, 1, generator=generator)
    errors = []
    for variance in (1.0, 0.25, 4.0):
        spread = torch.full((50, 1), variance)
        result = calibration(tasks_of(inside, [Gaussian(torch.zeros(50, 1), spread)] * 200, y))
        assert result.metric == "calibration_error"
        errors.append(result.error["mean"])
    assert errors[0] < 0.01 < 0.15 < min(errors[1:])


def test_the_interval_of_the_error_shrinks_with_the_tasks():
    few, many = (calibration(tasks_of(confidence, *binary(n, 50, 4.0))).error["ci95"] for n in (10, 400))
    assert 0 < many < few / 3
    assert calibration(tasks_of(confidence, *binary(1, 50))).error["ci95"] == np.inf


def test_without_counts_or_with_nan_there_is_no_calibration():
    assert calibration({"mse": np.ones((3, 1))}) is None
    assert calibration(tasks_of(confidence, binary(2)[0] * torch.nan, binary(2)[1])) is None
