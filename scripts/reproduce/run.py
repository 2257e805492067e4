"""Running one cell: a `metarun` command in a folder of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from metarun.run_folder import can_resume, result_or_empty, status_of
from scripts.reproduce.cells import ROOT, Cell

FINISHED = ("completed", "diverged")  # a run again would end in the same way


def run(cell: Cell, seed: int, folder: Path) -> dict[str, Any]:
    """The result of one run, which is read, resumed or started; one that fails does not stop the others.

    Returns:
        The content of `result.json`; only `status` `refused` where the command left none.
    """
    if status_of(folder) not in FINISHED:
        subprocess.run([sys.executable, "-m", "metarun", *arguments(cell, seed, folder)], check=False, cwd=ROOT)
    return result_or_empty(folder) or {"status": "refused"}


def arguments(cell: Cell, seed: int, folder: Path) -> list[str]:
    """Arguments of the command that runs a cell's seed, or resumes it."""
    if can_resume(folder):
        return [f"run.resume={folder}"]
    return [*cell.overrides, f"seed={seed}", f"hydra.run.dir={folder}"]
