"""The tables, as Markdown: published beside measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from scripts.reproduce.mtnet.results import Results, RunResult
from scripts.reproduce.mtnet.subspace import Subspace
from scripts.reproduce.mtnet.sweeps import ALPHAS, FEW_ALPHAS, INITS, LABELS, POLYNOMIALS, ROBUST, SHOTS

STEPS = (1, 2, 3, 5, 10)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a line for each row."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rounded(value: float | None) -> str:
    """A number with three digits or so; `-` for None."""
    if value is None:
        return "-"
    return f"{value:.3g}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def entry(runs: Sequence[RunResult]) -> str:
    """`published → mean (each seed with its interval over tasks)`."""
    if not runs:
        return "not run"
    paper = runs[0].published
    published = "none"
    if paper:
        published = rounded(paper["value"]) + (f" ± {paper['ci95']}" if paper["ci95"] else "")
    seeds = ", ".join(f"{rounded(run.mean)} ± {rounded(run.result['ci95'])}" for run in runs)
    means = [run.mean for run in runs if run.mean is not None]
    mean = rounded(statistics.mean(means)) if means else "diverged"
    return f"{published} → **{mean}** ({seeds})"


def sinusoid_table(results: Results) -> str:
    """MSE of all learners by shots."""
    rows = [[label, *(entry(results.sinusoid(algo, shots)) for shots in SHOTS)] for algo, label in LABELS.items()]
    return table(["learner", *(f"{shots}-shot" for shots in SHOTS)], rows)


def step_table(results: Results) -> str:
    """Mean over seeds after some steps at alpha 0.01, 10-shot, and the mean of the seeds' medians over tasks."""
    rows = []
    for algo in ROBUST:
        runs = results.sinusoid(algo, 10)
        columns = []
        for step in STEPS:
            means = [mean for run in runs if (mean := run.at_step(step)) is not None]
            medians = [median for run in runs if (median := run.at_step(step, "median")) is not None]
            shown = rounded(statistics.mean(means)) if len(means) == len(runs) and means else "diverges"
            columns.append(f"{shown} (median {rounded(statistics.mean(medians)) if medians else '-'})")
        rows.append([LABELS[algo], *columns])
    return table(["learner", *(f"step {step}" for step in STEPS)], rows)


def robustness_table(results: Results) -> str:
    """MSE by inner learning rate."""
    rows = [
        [alpha, *(entry(results.select(f"learning_rate_{algo}", {"algo.inner_lr": float(alpha)})) for algo in ROBUST)]
        for alpha in ALPHAS
    ]
    return table(["alpha", *(LABELS[algo] for algo in ROBUST)], rows)


def init_table(results: Results) -> str:
    """MSE by initialisation and inner learning rate; nothing is published."""
    rows = []
    for init, label in INITS.items():
        for alpha in FEW_ALPHAS:
            values = {"algo.inner_lr": float(alpha), "backbone.init": init}
            entries = [entry(results.select(f"init_{algo}", values)) for algo in ROBUST]
            rows.append([label, alpha, *(text.removeprefix("none → ") for text in entries)])
    return table(["initialisation", "alpha", *(LABELS[algo] for algo in ROBUST)], rows)


def subspace_table(subspaces: Mapping[str, Sequence[Subspace]]) -> str:
    """Masks and singular values of each run on polynomials, by their order."""
    rows = []
    for kind, entries in subspaces.items():
        init, alpha = POLYNOMIALS[kind]
        for subspace in sorted(entries, key=lambda s: s.order):
            masks = " ".join(f"{value:.2f}" for value in subspace.masks.values())
            shares = " ".join(f"{share:.2f}" for share in subspace.shares)
            dimensions, mse = str(subspace.dimensions), rounded(subspace.mse)
            rows.append([f"{init}, {alpha}", str(subspace.order), masks, shares, dimensions, mse])
    head = ["initialisation, alpha", "order", "P(moves) by layer", "shares of the first four", "dominant", "MSE"]
    return table(head, rows)
