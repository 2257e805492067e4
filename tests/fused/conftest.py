"""A multirun that trains together, and the same runs alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import small
from fused_sweeps import CELLS, GRID, sweep


@pytest.fixture(scope="session")
def fused(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fused")
    outcome = sweep(*GRID, folder=folder)
    assert outcome.status == 0, outcome.err
    return folder / "sweep"


@pytest.fixture(scope="session")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    for number, (seed, lr) in enumerate(CELLS):
        overrides = ("algo=mtnet", f"seed={seed}", f"algo.inner_lr={lr}", "device.precision=float64")
        small(*overrides, folder=folder, name=f"runs/{number}")
    return folder / "runs"
