"""The tables of a target, from the results of its runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarun.run_folder import result_or_empty
from scripts.reproduce.cells import PROBLEMS, RATES, Cell, run_folder

Curve = dict[int, float]  # loss after each step
SHOWN_STEPS = (10, 20, 50, 100)


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


def optimizer_table(curves: dict[str, tuple[dict[str, Curve], dict[str, Curve]]]) -> str:
    """The learned optimizer beside tuned ones, from the `optimizer_curves` of each problem.

    In brackets the best of all rates of a tuned optimizer at that very step, which no single rate need reach.
    """
    lines = ["| problem | optimizer | step 10 | 20 | 50 | 100 |", "|---|---|---|---|---|---|"]
    for problem, (shown, best) in curves.items():
        for name, curve in shown.items():
            losses = [f"{curve[s]:.3f}" for s in SHOWN_STEPS]
            if name in best:
                losses = [f"{loss} ({best[name][s]:.3f})" for loss, s in zip(losses, SHOWN_STEPS, strict=True)]
            lines.append(f"| {problem} | {name} | " + " | ".join(losses) + " |")
    return "\n".join(lines)


def optimizer_curves(problem: str, folder: Path) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """Curves of a problem's optimizers by name, and of each tuned one the best of all rates, step by step.

    An optimizer is tuned as the paper does, by the loss that it ends with.
    """
    shown = {"learned": read_curve(run_folder(folder, f"{problem} learned", 0))}
    best: dict[str, Curve] = {}
    for optimizer in PROBLEMS[problem][1]:
        curves = {r: read_curve(run_folder(folder, f"{problem} {optimizer} {r}", 0)) for r in RATES[optimizer]}
        curves = {rate: curve for rate, curve in curves.items() if curve and np.isfinite(curve[max(curve)])}
        tuned = min(curves, key=lambda rate: curves[rate][max(curves[rate])])
        name = f"{optimizer}, {tuned}"
        shown[name] = curves[tuned]
        best[name] = {step: min(curve[step] for curve in curves.values()) for step in curves[tuned]}
    return shown, best


def read_curve(folder: Path) -> Curve:
    """The mean loss (the headline, or beside an accuracy the NLL) of test tasks after each step; empty: no result."""
    result = result_or_empty(folder)
    if result.get("status") != "completed":
        return {}
    with np.load(folder / "episodes.npz") as values:
        name = "nll" if result["metric"] == "accuracy" else result["metric"]
        return dict(enumerate(values[name].mean(0).tolist()))
