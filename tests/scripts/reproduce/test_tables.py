"""A target's table says what its runs' folders hold."""

from __future__ import annotations

from scripts.reproduce import tables
from scripts.reproduce.cells import Cell


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
