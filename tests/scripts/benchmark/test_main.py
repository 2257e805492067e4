"""The benchmark as a command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from commands import ROOT

from scripts.benchmark.sides import ROWS, SIDES


@pytest.mark.slow
def test_a_row_is_measured_and_written(tmp_path):
    file = tmp_path / "results.json"
    command = [sys.executable, "-m", "scripts.benchmark.main", "--quick", "--only", "sinusoid-1", "--threads", "1"]
    ended = subprocess.run(
        [*command, "--json", file], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    assert ROWS["sinusoid-1"].title in ended.stdout and "the figures are rough" in ended.stdout
    results = json.loads(file.read_text())
    assert results["conditions"]["gflops"] > 0 and results["conditions"]["threads"] == 1
    (row,) = results["rows"]
    assert set(row["sides"]) == set(SIDES) and row["gflop"] > 0
    for side in row["sides"].values():
        assert side["median_ms"] > 0 and side["repetitions"] >= 3
        assert side["losses_relative_difference"] < 1e-5 and side["gradient_relative_difference"] < 1e-4
