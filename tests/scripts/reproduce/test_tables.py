"""A target's table says what its runs' folders hold."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scripts.reproduce import tables
from scripts.reproduce.cells import RATES, Cell, run_folder


def result(mean: float, status: str = "completed") -> dict:
    steps = [{"step": k, "mean": None if k == 10 else mean + k, "ci95": 0.25} for k in range(11)]
    return {"status": status, "step": 5, "steps": steps, "iterations": 100, "tasks": 600, "train_seconds": 8.0,
            "commit": "0123456789ab"}  # fmt: skip


def test_a_row_has_the_mean_and_each_seed():
    cell = Cell("maml", [], [0, 1])
    assert tables.row(cell, [result(1.0), result(2.0)]) == (
        "| maml | step 0: **1.500** (1.000 ± 0.250, 2.000 ± 0.250); "
        "step 1: **2.500** (2.000 ± 0.250, 3.000 ± 0.250); "
        "step 5: **6.500** (6.000 ± 0.250, 7.000 ± 0.250); "
        "step 10: not finite | 100 | 8 s | 600 | 012345678 |"
    )


def test_a_row_says_which_seed_did_not_complete():
    cell = Cell("maml", [], [0, 1])
    assert tables.row(cell, [result(1.0), {"status": "refused"}]) == "| maml | completed, refused | | | | |"


def write_curve(folder, loss: float) -> None:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"format": 1, "status": "completed", "metric": "loss"}))
    np.savez(folder / "episodes.npz", loss=loss / np.arange(1, 102) * np.ones((2, 1)))


def test_an_optimizer_is_tuned_by_the_loss_it_ends_with(tmp_path):
    write_curve(run_folder(tmp_path, "digits-relu learned", 0), 1.0)
    for index, rate in enumerate(RATES["adam"]):
        write_curve(run_folder(tmp_path, f"digits-relu adam {rate}", 0), 10.0 - index)
    shown, best = tables.optimizer_curves("digits-relu", tmp_path)
    assert list(shown) == ["learned", "adam, 3.0"] and list(best) == ["adam, 3.0"]
    assert shown["learned"][100] == pytest.approx(1 / 101)
    lines = tables.optimizer_table({"digits-relu": (shown, best)}).splitlines()
    assert lines[2] == "| digits-relu | learned | 0.091 | 0.048 | 0.020 | 0.010 |"
    assert lines[3] == "| digits-relu | adam, 3.0 | 0.273 (0.273) | 0.143 (0.143) | 0.059 (0.059) | 0.030 (0.030) |"
