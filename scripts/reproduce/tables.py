"""The table that a target prints when its runs have ended."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from scripts.reproduce.cells import Cell


def table(cells: Sequence[tuple[Cell, list[dict[str, Any]]]]) -> str:
    """A line for each cell, with the results of its seeds."""
    lines = ["| learner | metric | iterations | training | tasks | commit |", "|---|---|---|---|---|---|"]
    return "\n".join([*lines, *(row(cell, results) for cell, results in cells)])


def row(cell: Cell, results: list[dict[str, Any]]) -> str:
    """One line: the mean over seeds, and each seed with its interval over tasks."""
    if any(r["status"] != "completed" for r in results):
        return f"| {cell.name} | {', '.join(r['status'] for r in results)} | | | | |"
    first = results[0]
    steps = sorted({r["step"] for r in results} | {s["step"] for s in first["steps"] if s["step"] in (0, 1, 10)})
    seconds = statistics.mean(r["train_seconds"] for r in results)
    columns = [
        cell.name,
        "; ".join(at_step(step, results) for step in steps),
        f"{first['iterations']}",
        f"{seconds:.0f} s",
        f"{first['tasks']}",
        f"{first['commit'] or '?':.9}",
    ]
    return "| " + " | ".join(columns) + " |"


def at_step(step: int, results: list[dict[str, Any]]) -> str:
    """The metric after so many adaptation steps: the mean over seeds, and each seed with its interval."""
    estimates = [next(s for s in r["steps"] if s["step"] == step) for r in results]
    if any(s["mean"] is None for s in estimates):
        return f"step {step}: not finite"
    seeds = ", ".join(f"{s['mean']:.3f} ± {s['ci95']:.3f}" for s in estimates)
    return f"step {step}: **{statistics.mean(s['mean'] for s in estimates):.3f}** ({seeds})"
