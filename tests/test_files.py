"""Estimates and files: intervals that cover what they promise, files that are whole."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest

from metarun.evaluation.estimate import Estimate
from metarun.files import write_atomically, write_json
from metarun.run_folder import read_result


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


def test_json_holds_no_nan(tmp_path):
    write_json(tmp_path / "result.json", {"mean": math.nan, "steps": [{"ci95": math.inf}], "ok": 1.5})
    assert "NaN" not in (tmp_path / "result.json").read_text()
    assert read_result(tmp_path) == {"mean": None, "steps": [{"ci95": None}], "ok": 1.5}


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"good": 1})

    def half(file):
        file.write(b'{"ha')
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, half)
    assert json.loads(path.read_text()) == {"good": 1}
    assert os.listdir(tmp_path) == ["result.json"]
