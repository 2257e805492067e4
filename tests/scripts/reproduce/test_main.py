"""A cell is really run, and stands in the table."""

from __future__ import annotations

import re

import pytest
from commands import SMALL

from metarun.run_folder import read_result
from scripts.reproduce.cells import Cell, run_folder
from scripts.reproduce.main import reproduce


@pytest.mark.slow
def test_a_cell_is_run_once_and_shown(tmp_path):
    cells = [Cell("maml small", ["algo=maml", "data=sinusoid", *SMALL], [3])]
    text = reproduce(cells, tmp_path, jobs=1)
    folder = run_folder(tmp_path, "maml small", 3)
    result = read_result(folder)
    assert (result["status"], result["seed"], result["iterations"]) == ("completed", 3, 60)
    assert re.search(r"\| maml small \| step 0: \*\*[\d.]+\*\* \([\d.]+ ± [\d.]+\); .* \| 60 \| \d+ s \| 20 \|", text)
    written = (folder / "result.json").stat().st_mtime_ns
    assert reproduce(cells, tmp_path, jobs=1) == text
    assert (folder / "result.json").stat().st_mtime_ns == written
