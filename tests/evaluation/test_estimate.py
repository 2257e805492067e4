"""Estimates: intervals that cover what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metarun.evaluation.estimate import Estimate, bootstrap


def test_intervals_of_95_percent_cover_95_percent():
    rng = np.random.default_rng(0)
    trials, tasks = 4000, 60
    estimates = [Estimate.of(rng.exponential(2.0, tasks)) for _ in range(trials)]
    covered = np.mean([abs(e.mean - 2.0) <= e.ci95 for e in estimates])
    # skewed data and 60 tasks: about 93.5 %; one sigma would cover 68 %, dividing by n instead of sqrt(n) 20 %
    assert 0.92 < covered < 0.965


def test_estimate_by_hand():
    estimate = Estimate.of(np.array([1.0, 2.0, 3.0, 6.0]))
    assert estimate.mean == 3 and estimate.median == 2.5 and estimate.tasks == 4
    assert estimate.ci95 == pytest.approx(1.96 * math.sqrt(14 / 3) / 2, rel=1e-4)


def test_one_task_has_no_finite_interval():
    assert Estimate.of(np.array([2.0])).ci95 == math.inf
    assert bootstrap(1, lambda weight: float(weight.sum())) == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_task_that_is_not_finite_is_counted_and_leaves_no_mean(bad):
    estimate = Estimate.of(np.array([1.0, bad, 2.0, bad]))
    assert (estimate.tasks, estimate.not_finite) == (4, 2)
    assert np.isnan([estimate.mean, estimate.ci95, estimate.median]).all()
    assert estimate.as_dict()["not_finite"] == 2
    assert set(Estimate.of(np.array([1.0, 2.0])).as_dict()) == {"mean", "ci95", "median"}


def test_the_bootstrap_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(1).normal(size=400)
    interval = bootstrap(400, lambda weight: float(weight @ values / weight.sum()), resamples=2000)
    assert interval == pytest.approx(Estimate.of(values).ci95, rel=0.06)
