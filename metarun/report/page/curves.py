"""What runs logged while training, thinned to what a plot can show."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metarun.report.page.words import finite
from metarun.run_files import read_bytes
from metarun.run_folder import Run

POINTS = 300  # of a curve, at most
MOST_BYTES = 1 << 32  # of a file
ALL_POINTS = 60_000  # of all runs' curves, roughly, as long as each has at least a third of POINTS


class Curves:
    """The curves of some runs.

    Attributes:
        by_run: of each run by key of metrics.jsonl: the place of its iterations in `grids`, and its values.
        grids: the iterations of the curves, which many runs share.
        problems: of each run what is wrong with its metrics.jsonl; None: nothing.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        points = max(POINTS // 3, min(POINTS, ALL_POINTS // max(1, len(runs))))
        metrics = {run.metric for run in runs if run.metric} or {"mse", "accuracy"}
        keys = ["train/loss", *(f"{split}/{metric}" for metric in sorted(metrics) for split in ("train", "val"))]
        self._places: dict[tuple[float, ...], int] = {}
        self.problems: list[str | None] = []
        self.by_run = [self._thinned(run, keys, points) for run in runs]
        self.grids = list(map(list, self._places))

    def _thinned(self, run: Run, keys: Sequence[str], points: int) -> dict[str, list[Any]]:
        rows, problem = thinned_rows(run.folder / "metrics.jsonl", points)
        self.problems.append(problem)
        curves = {}
        for key in keys:
            logged = [row for row in rows if key in row]
            if logged:
                grid = tuple(row["iteration"] for row in logged)
                place = self._places.setdefault(grid, len(self._places))
                curves[key] = [place, [rounded(row[key]) for row in logged]]
        return curves


def thinned_rows(path: Path, points: int) -> tuple[list[dict[str, Any]], str | None]:
    """Rows of a metrics.jsonl, evenly taken: at most `points` with validation and as many without, always the last.

    Only these are parsed. A damaged line is passed over; the last line may be half written, for its run is under way.

    Returns:
        The rows, and what is wrong with the file; None: nothing.
    """
    try:
        lines = read_bytes(path, MOST_BYTES).splitlines()
    except FileNotFoundError:
        return [], None
    except (OSError, ValueError) as error:
        return [], f"{path.name} cannot be read: {error}"
    validations = [line for line in lines if b'"val/' in line]
    others = [line for line in lines if b'"val/' not in line]
    looked_at = [*evenly(others, points), *evenly(validations, points)]
    rows = [row for row in parsed(looked_at) if isinstance(row, dict) and finite(row.get("iteration")) is not None]
    damaged = len(looked_at) - len(rows)
    if damaged and not parsed(lines[-1:]):
        damaged -= 1
    problem = f"{path.name}: {damaged:,} of {len(looked_at):,} lines looked at are damaged" if damaged else None
    return sorted(rows, key=lambda row: row["iteration"]), problem


def evenly(lines: Sequence[bytes], points: int) -> Sequence[bytes]:
    """At most `points` lines at equal distances, the last one included."""
    stride = math.ceil(len(lines) / points) or 1
    return lines[::-1][::stride][::-1]


def parsed(lines: Sequence[bytes]) -> list[Any]:
    """The content of each line of JSON, damaged ones left out; all at once, which is faster, if none is damaged."""
    try:
        return list(json.loads(b"[%b]" % b",".join(lines)))
    except (ValueError, RecursionError):
        return [row for line in lines if (row := parsed_line(line)) is not None]


def parsed_line(line: bytes) -> Any:
    """The content of a line of JSON; None where it is damaged."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def rounded(value: Any) -> float | None:
    """A value to four digits, which are finer than a screen; None where it is no number."""
    return None if finite(value) is None else float(f"{value:.4g}")
