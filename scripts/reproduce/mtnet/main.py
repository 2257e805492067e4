"""MT-net's paper (Lee and Choi 2018) where two cores can: `make reproduce-mtnet`.

The sinusoid table, robustness to the inner learning rate, the same at 20,000 iterations for three initialisations and
for Meta-SGD (which no paper shows), and the learned subspace against the order of polynomials; three seeds of each
cell. Every set of cells that can share a program is one `metarun -m hydra/launcher=fused` command; two commands run
side by side, each on one thread. Started again, the script runs only what is missing. Tables and figures lie in
outputs/reproduce/mtnet/, records in docs/results/mtnet/.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path

from metarun.files import write_text
from scripts.reproduce.cells import REPRODUCED, ROOT
from scripts.reproduce.mtnet.cells import cells
from scripts.reproduce.mtnet.figures import draw
from scripts.reproduce.mtnet.results import Results
from scripts.reproduce.mtnet.subspace import subspace
from scripts.reproduce.mtnet.sweeps import (
    COMMON,
    POLYNOMIALS,
    ROBUST,
    SEEDS,
    Sweep,
    is_done,
    sweeps,
    why_other_sweep,
)
from scripts.reproduce.mtnet.tables import init_table, robustness_table, sinusoid_table, step_table, subspace_table
from scripts.reproduce.run import put_aside
from scripts.results.from_runs import record_runs


def run(sweep: Sweep, out: Path) -> None:
    """Run or resume one command in `out`; its output goes to a log beside its cells.

    Raises:
        RuntimeError: it ended otherwise than by completing or diverging.
    """
    folder = out / sweep.name
    if (why := why_other_sweep(sweep, folder)) is not None:
        aside = put_aside(folder)
        print(f"{sweep.name} runs again: {why}; what was there is now {aside.name}", flush=True)
    if is_done(sweep, folder):
        print(f"{sweep.name}: was done", flush=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    command = [sys.executable, "-m", "metarun", "-m", "hydra/launcher=fused", *sweep.overrides, *COMMON]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("a") as log:
        status = subprocess.run(
            [*command, f"hydra.sweep.dir={folder}"], cwd=ROOT, stdout=log, stderr=log, env=environment
        ).returncode
    seconds = time.monotonic() - start
    with (out / "times.jsonl").open("a") as file:
        file.write(json.dumps({"sweep": sweep.name, "cells": sweep.cells, "seconds": round(seconds, 1)}) + "\n")
    print(f"{sweep.name}: exit status {status}, {seconds:.0f} s", flush=True)
    if status not in (0, 3):
        raise RuntimeError(f"{sweep.name} ended with exit status {status}; see {folder / 'log.txt'}")


def report(out: Path, seconds: float | None) -> str:
    """The whole report as Markdown; draws its figures beside it.

    Args:
        out: holds the sweeps' folders.
        seconds: duration of this call; None: it ran nothing.
    """
    results = Results(out)
    subspaces = {kind: [subspace(run) for run in results.of_sweep(f"polynomial_{kind}")] for kind in POLYNOMIALS}
    subspaces = {kind: entries for kind, entries in subspaces.items() if entries}
    draw(results, subspaces, out)
    parts = [
        "# MT-net's paper (Lee and Choi 2018), measured",
        summary(results, out, seconds),
        "## Sinusoid of varying frequency, one step of 0.01, MSE",
        sinusoid_table(results),
        "More steps than the one trained for, 10-shot, means over seeds:",
        step_table(results),
        images(out, *(f"adapted_curves_{algo}" for algo in ROBUST)),
        "## Inner learning rate, 10-shot, 60,000 iterations, MSE after one step",
        robustness_table(results),
        images(out, "learning_rates"),
        "## Initialisation, 10-shot, 20,000 iterations, MSE after one step",
        init_table(results),
        images(out, "initialisations"),
        "## Polynomials: does the subspace grow with the tasks",
        subspace_table(subspaces),
        *(images(out, f"subspace_masks_{kind}", f"subspace_directions_{kind}") for kind in subspaces),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def images(out: Path, *names: str) -> str:
    """Links to those of the figures that were drawn."""
    return " ".join(f"![]({name}.png)" for name in names if (out / f"{name}.png").is_file())


def summary(results: Results, out: Path, seconds: float | None) -> str:
    """What was run, when, from which commit, and how long it took."""
    runs = [run.result for sweep in sweeps() for run in results.of_sweep(sweep.name)]
    steps = sum(result["iterations"] for result in runs)
    commit = next((result["commit"] for result in runs if result["commit"]), "?")
    times = [json.loads(line) for line in (out / "times.jsonl").read_text().splitlines()]
    spent = sum(entry["seconds"] for entry in times)
    this_call = "" if seconds is None else f" This call took {seconds / 60:.1f} minutes."
    return (
        f"{date.today()}, commit {commit:.9}. {len(runs)} runs, {steps:,} outer steps in all, {spent / 60:.1f} "
        f"minutes of command time on two lanes of one thread each.{this_call} Each cell: published (none: not read "
        f"in a named text) → mean over seeds {', '.join(map(str, SEEDS))} (each ± half its 95 % interval over "
        "600 tasks)."
    )


def main() -> None:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, default=2, help="commands side by side, a thread each (default 2)")
    parser.add_argument("--report", action="store_true", help="run nothing: report the results that exist")
    args = parser.parse_args()
    out = REPRODUCED / "mtnet"
    out.mkdir(parents=True, exist_ok=True)
    (out / "times.jsonl").touch()
    seconds = None
    if not args.report:
        start = time.monotonic()
        with ThreadPoolExecutor(args.lanes) as lanes:
            list(lanes.map(partial(run, out=out), sweeps()))
        seconds = time.monotonic() - start
    text = report(out, seconds)
    write_text(out / "report.md", text)
    print(text)
    print(f"Figures and tables: {out}")
    for cell in cells(Results(out)):
        record_runs(cell)


if __name__ == "__main__":
    main()
