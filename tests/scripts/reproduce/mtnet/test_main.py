"""A small sweep is really run, and stands in the report."""

from __future__ import annotations

import json
import re

import pytest
from commands import SMALL

from scripts.reproduce.mtnet.main import report, run
from scripts.reproduce.mtnet.sweeps import Sweep

FEW = tuple(word for word in SMALL if not word.startswith(("tracker", "device.threads")))


@pytest.mark.slow
def test_a_sweep_is_run_once_and_reported(tmp_path, capsys):
    sweep = Sweep("polynomial_ours", ("experiment=mtnet/polynomial/order1", "seed=0,1", *FEW), 2)
    run(sweep, tmp_path)
    assert "polynomial_ours: exit status 0" in capsys.readouterr().out
    run(sweep, tmp_path)
    assert capsys.readouterr().out == "polynomial_ours: was done\n"
    (entry,) = map(json.loads, (tmp_path / "times.jsonl").read_text().splitlines())
    assert (entry["sweep"], entry["cells"]) == ("polynomial_ours", 2) and entry["seconds"] > 0
    text = report(tmp_path, None)
    rows = [line for line in text.splitlines() if line.startswith("| torch, 0.01 | 1 |")]
    assert len(rows) == 2 and "not run" in text and "2 runs, 120 outer steps in all" in text
    assert re.findall(r"\((\w+)\.png\)", text) == ["subspace_masks_ours", "subspace_directions_ours"]
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == ["subspace_directions_ours", "subspace_masks_ours"]
