"""Running one cell: a `metarun` command in a folder of its own."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metarun.run_folder import (
    FORMAT,
    DamagedFileError,
    can_resume,
    is_same_config,
    read_config,
    read_overrides,
    result_or_empty,
    status_of,
)
from scripts.reproduce.cells import ROOT, Cell
from scripts.results.configuration import composed

FINISHED = ("completed", "diverged")  # a run again would end in the same way


def run(cell: Cell, seed: int, folder: Path) -> dict[str, Any]:
    """The result of one run, which is read, resumed or started; one that fails does not stop the others.

    A folder that holds another run, of another configuration or format, is put aside and the cell is run again.

    Returns:
        The content of `result.json`; only `status` `refused` where the command left none.
    """
    wanted = cell.command(seed)
    if (why := why_other(wanted, folder)) is not None:
        aside = put_aside(folder)
        print(f"{folder.name} runs again: {why}; what was there is now {aside.name}", flush=True)
    if status_of(folder) not in FINISHED:
        command = [sys.executable, "-m", "metarun", *arguments(wanted, folder)]
        subprocess.run(command, check=False, cwd=ROOT)
    return result_or_empty(folder) or {"status": "refused"}


def arguments(wanted: list[str], folder: Path) -> list[str]:
    """Arguments of the command that runs a cell's seed, or resumes it."""
    if can_resume(folder):
        return [f"run.resume={folder}"]
    return [*wanted, f"hydra.run.dir={folder}"]


def why_other(wanted: Sequence[str], folder: Path) -> str | None:
    """Why what lies in a folder is not the run of these overrides; None: it is, or nothing lies there."""
    if not folder.is_dir():
        return None
    result = result_or_empty(folder)
    if result and result.get("format") != FORMAT:
        return f"its result has format {result.get('format', 0)}, not {FORMAT}"
    try:
        saved, typed = read_config(folder), read_overrides(folder)
    except FileNotFoundError:
        return None  # it never began
    except DamagedFileError as error:
        return str(error)
    tested = next((word.partition("=")[2] for word in wanted if word.startswith("run.evaluate=")), None)
    if tested is None:
        return None if is_same_config(saved, composed(wanted)) else "its configuration is another"
    # a saved run that is tested again: its configuration is not composed from here, but by that run's folder
    if set(typed) != set(wanted):
        return "its overrides are others"
    trained = ROOT / tested / "result.json"
    is_newer = trained.is_file() and trained.stat().st_mtime > (folder / "result.json").stat().st_mtime
    return f"{tested} was trained anew" if is_newer else None


def put_aside(folder: Path) -> Path:
    """Rename a folder, so that a run can begin there; returns its new place."""
    places = (folder.with_name(f"{folder.name}.{number}") for number in itertools.count(1))
    aside = next(place for place in places if not place.exists())
    return folder.rename(aside)
