"""MT-net's paper (Lee and Choi 2018) where two cores can: `make reproduce-mtnet`.

The sinusoid table, robustness to the inner learning rate, the same for three initialisations (which no paper shows),
and the learned subspace against the order of polynomials; three seeds of each cell. Every set of cells that can share
a program is one `metarun -m hydra/launcher=fused` command; two commands run side by side, each on one thread. Started
again, the script runs only what is missing. Tables and figures: outputs/reproduce/mtnet/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
OUT = ROOT / "outputs" / "reproduce" / "mtnet"
SEEDS = (0, 1, 2)
LABELS = {"maml": "MAML", "meta_sgd": "Meta-SGD", "tnet": "T-net", "mtnet": "MT-net"}
LABELS |= {"mtnet_full": "MT-net-full", "mnet": "M-net", "mnet_full": "M-net-full"}
SHOTS = (5, 10, 20)
ALPHAS = ("10", "1", "0.1", "0.01", "0.001", "0.0001")
FEW_ALPHAS = ("1", "0.1", "0.01", "0.0001")
ROBUST = ("maml", "tnet", "mtnet")
INITS = {"truncated_normal": "truncated normal 0.01 (the paper's)", "torch": "PyTorch's default", "xavier": "Xavier"}
ORDERS = (0, 1, 2)
POLYNOMIALS = {"ours": ("torch", "0.01"), "script": ("truncated_normal", "0.001")}
COMMON = ("tracker=none", "device.threads=1", "hydra.sweep.subdir=${hydra.job.num}")
DOMINANT = 0.05  # a direction is dominant whose singular value is at least this share of their sum


class Sweep(NamedTuple):
    """One command: its name (and folder), what it sweeps, and how many cells that makes."""

    name: str
    overrides: tuple[str, ...]
    cells: int

    @property
    def folder(self) -> Path:
        return OUT / self.name


def sweeps() -> list[Sweep]:
    """All commands, the longest first, so that both lanes end at about the same time."""
    seeds = "seed=" + ",".join(map(str, SEEDS))
    found = []
    for algo in ROBUST:
        cells = (f"algo={algo}", "data=sinusoid_varied", "run.iterations=20000", seeds)
        alphas = "algo.inner_lr=" + ",".join(FEW_ALPHAS)
        found.append(Sweep(f"init_{algo}", (*cells, alphas, "backbone.init=" + ",".join(INITS)), 36))
    for algo in ROBUST:
        names = ",".join(f"mtnet/learning_rate/{algo}_{alpha}" for alpha in ALPHAS)
        found.append(Sweep(f"learning_rate_{algo}", (f"experiment={names}", seeds), 18))
    for kind, (init, alpha) in POLYNOMIALS.items():
        names = ",".join(f"mtnet/polynomial/order{order}" for order in ORDERS)
        how = (f"backbone.init={init}", f"algo.inner_lr={alpha}")
        found.append(Sweep(f"polynomial_{kind}", (f"experiment={names}", *how, seeds), 9))
    for algo in LABELS:
        for shots in SHOTS:
            if not (algo in ROBUST and shots == 10):  # that cell is one of learning_rate's
                found.append(
                    Sweep(f"sinusoid_{algo}_{shots}", (f"experiment=mtnet/sinusoid/{algo}_{shots}shot", seeds), 3)
                )
    return found


def is_done(sweep: Sweep) -> bool:
    """Whether each of its cells has ended by itself: completed, or diverged."""
    found = [read(sweep.folder / str(number)) for number in range(sweep.cells)]
    return all(result is not None and result["status"] in ("completed", "diverged") for result in found)


def read(folder: Path) -> dict[str, Any] | None:
    path = folder / "result.json"
    return json.loads(path.read_text()) if path.is_file() else None


def run(sweep: Sweep) -> None:
    """Run or go on with one command; its output goes to a log beside its cells."""
    if is_done(sweep):
        print(f"{sweep.name}: was done", flush=True)
        return
    sweep.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    command = [sys.executable, "-m", "metarun", "-m", "hydra/launcher=fused", *sweep.overrides, *COMMON]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (sweep.folder / "log.txt").open("a") as log:
        status = subprocess.run(
            [*command, f"hydra.sweep.dir={sweep.folder}"], cwd=ROOT, stdout=log, stderr=log, env=environment
        ).returncode
    seconds = time.monotonic() - began
    with (OUT / "times.jsonl").open("a") as file:
        file.write(json.dumps({"sweep": sweep.name, "cells": sweep.cells, "seconds": round(seconds, 1)}) + "\n")
    print(f"{sweep.name}: exit status {status}, {seconds:.0f} s", flush=True)
    if status not in (0, 3):
        raise RuntimeError(f"{sweep.name} ended with {status}; see {sweep.folder / 'log.txt'}")


# ------------------------------------------------------------------------------------------------------- reading


def cells_of(name: str) -> list[dict[str, Any]]:
    """Results of a sweep, each with the configuration it was started with."""
    import yaml

    found = []
    for folder in sorted((OUT / name).glob("[0-9]*"), key=lambda path: int(path.name)):
        result = read(folder)
        if result is not None:
            config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
            found.append({**result, "folder": folder, "config": config})
    return found


def pick(name: str, **wanted: Any) -> list[dict[str, Any]]:
    """Cells whose configuration has these values, by dotted key with `__` for the dot."""

    def value(cell: dict[str, Any], key: str) -> Any:
        node = cell["config"]
        for word in key.split("__"):
            node = node[word]
        return node

    return [cell for cell in cells_of(name) if all(value(cell, key) == want for key, want in wanted.items())]


def at_step(cell: dict[str, Any], step: int) -> float | None:
    return next((row["mean"] for row in cell["steps"] if row["step"] == step), None)


def number(value: float | None) -> str:
    return (
        "-" if value is None else f"{value:.3g}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"
    )


def entry(cells: Sequence[dict[str, Any]]) -> str:
    """`published -> mean (seeds, each with its interval over tasks)`."""
    if not cells:
        return "not run"
    paper = cells[0]["paper"]
    published = "none"
    if paper:
        published = number(paper["value"]) + (f" ± {paper['ci95']}" if paper["ci95"] else "")
    each = ", ".join(f"{number(c['mean'])} ± {number(c['ci95'])}" for c in cells)
    known = [c["mean"] for c in cells if c["mean"] is not None]
    mean = number(statistics.mean(known)) if known else "diverged"
    return f"{published} → **{mean}** ({each})"


# -------------------------------------------------------------------------------------------------------- tables


def sinusoid_cells(algo: str, shots: int) -> list[dict[str, Any]]:
    if algo in ROBUST and shots == 10:
        return pick(f"learning_rate_{algo}", algo__inner_lr=0.01)
    return cells_of(f"sinusoid_{algo}_{shots}")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def sinusoid_table() -> str:
    rows = [[label, *(entry(sinusoid_cells(algo, shots)) for shots in SHOTS)] for algo, label in LABELS.items()]
    return table(["learner", *(f"{shots}-shot" for shots in SHOTS)], rows)


def step_table() -> str:
    """Mean over seeds after some steps at alpha 0.01, 10-shot, and the mean of the seeds' medians over tasks."""
    rows = []
    for algo in ROBUST:
        cells = sinusoid_cells(algo, 10)
        columns = []
        for step in (1, 2, 3, 5, 10):
            values = [at_step(cell, step) for cell in cells]
            known = [value for value in values if value is not None]
            mean = number(statistics.mean(known)) if len(known) == len(cells) and known else "diverges"
            medians = [row["median"] for cell in cells for row in cell["steps"] if row["step"] == step]
            middle = [median for median in medians if median is not None]
            columns.append(f"{mean} (median {number(statistics.mean(middle)) if middle else '-'})")
        rows.append([LABELS[algo], *columns])
    return table(["learner", *(f"step {step}" for step in (1, 2, 3, 5, 10))], rows)


def robustness_table() -> str:
    rows = [
        [alpha, *(entry(pick(f"learning_rate_{algo}", algo__inner_lr=float(alpha))) for algo in ROBUST)]
        for alpha in ALPHAS
    ]
    return table(["alpha", *(LABELS[algo] for algo in ROBUST)], rows)


def init_table() -> str:
    rows = []
    for init, label in INITS.items():
        for alpha in FEW_ALPHAS:
            found = [pick(f"init_{a}", algo__inner_lr=float(alpha), backbone__init=init) for a in ROBUST]
            rows.append([label, alpha, *(entry(cells).removeprefix("none → ") for cells in found)])
    return table(["initialisation", "alpha", *(LABELS[algo] for algo in ROBUST)], rows)


class Subspace(NamedTuple):
    """What one MT-net says of its subspace: probability that a unit moves, by layer; shares of singular values."""

    order: int
    masks: dict[str, float]
    shares: list[float]
    mse: float | None

    @property
    def dimensions(self) -> int:
        return sum(share >= DOMINANT for share in self.shares)


def subspace(cell: dict[str, Any]) -> Subspace:
    """From a run's folder: its masks' probabilities, and the spectrum of prediction changes over 200 tasks."""
    import torch

    import metarun
    from metarun.data.polynomial import Polynomial
    from metarun.sampling import stream_generator

    learner = metarun.load(cell["folder"])
    config = {key: value for key, value in cell["config"]["data"].items() if key != "_target_"}
    generator = stream_generator("cpu", "subspace")
    batch, _ = Polynomial(**config, device="cpu").curves(200, 100, generator)
    random_inputs = learner.random_inputs(batch, 1, generator)

    def change(task: Any, random_inputs: Any) -> torch.Tensor:
        before, after = (predictor(task.query.x) for predictor in learner.trajectory(task.support, 1, random_inputs))
        assert isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor)
        return (after - before).squeeze(1)

    with torch.no_grad():
        singular = torch.linalg.svdvals(learner.map_tasks(change, batch, random_inputs))
        told = learner.diagnostics()
    masks = {name.removeprefix("mask/"): float(v) for name, v in told.items() if name.startswith("mask/")}
    return Subspace(cell["config"]["data"]["order"], masks, (singular / singular.sum())[:4].tolist(), cell["mean"])


def subspace_table(found: dict[str, list[Subspace]]) -> str:
    rows = []
    for kind, entries in found.items():
        init, alpha = POLYNOMIALS[kind]
        for one in sorted(entries, key=lambda s: s.order):
            masks = " ".join(f"{value:.2f}" for value in one.masks.values())
            shares = " ".join(f"{share:.2f}" for share in one.shares)
            rows.append([f"{init}, {alpha}", str(one.order), masks, shares, str(one.dimensions), number(one.mse)])
    head = ["initialisation, alpha", "order", "P(moves) by layer", "shares of the first four", "dominant", "MSE"]
    return table(head, rows)


# ------------------------------------------------------------------------------------------------------- figures


def lines_of(prefix: str, alphas: Sequence[str], published: bool, **wanted: Any) -> list[Any]:
    from metarun.report.sweep_figures import Line

    lines = []
    for algo in ROBUST:
        found = [pick(f"{prefix}_{algo}", algo__inner_lr=float(alpha), **wanted) for alpha in alphas]
        values = [[cell["mean"] for cell in cells] for cells in found]
        paper = [cells[0]["paper"]["value"] if published and cells else None for cells in found]
        lines.append(Line(LABELS[algo], [float(alpha) for alpha in alphas], values, paper))
    return lines


def draw(found: dict[str, list[Subspace]]) -> None:
    from metarun.report.sweep_figures import bars, sensitivity

    for algo in ROBUST:  # the first seed's function on six sinusoids, before and after 1 and 10 steps
        for cell in sinusoid_cells(algo, 10)[:1]:
            shutil.copy(cell["folder"] / "adapted_curves.png", OUT / f"adapted_curves_{algo}.png")
    metric = "MSE after one step"
    panel = "hollow: published, from memory"
    sensitivity({panel: lines_of("learning_rate", ALPHAS, True)}, metric, OUT / "learning_rates.png")
    panels = {label: lines_of("init", FEW_ALPHAS, False, backbone__init=init) for init, label in INITS.items()}
    sensitivity(panels, metric, OUT / "initialisations.png")
    for kind, entries in found.items():
        orders = [f"order {order}" for order in ORDERS]
        layers = list(entries[0].masks)
        masks = {layer: [[s.masks[layer] for s in entries if s.order == order] for order in ORDERS] for layer in layers}
        counts = {"directions": [[float(s.dimensions) for s in entries if s.order == order] for order in ORDERS]}
        bars(
            {"mean probability that a unit is updated": masks}, orders, "P(updated)", OUT / f"subspace_masks_{kind}.png"
        )
        title = f"singular values of the prediction changes of at least {DOMINANT:.0%}"
        bars({title: counts}, orders, "dominant directions", OUT / f"subspace_directions_{kind}.png")


def report(seconds: float | None) -> str:
    """The whole report as Markdown, and its figures beside it."""
    found = {kind: [subspace(c) for c in cells_of(f"polynomial_{kind}")] for kind in POLYNOMIALS}
    found = {kind: entries for kind, entries in found.items() if entries}
    draw(found)
    cells = [c for sweep in sweeps() for c in cells_of(sweep.name)]
    steps = sum(cell["iterations"] for cell in cells)
    commit = next((cell["commit"] for cell in cells if cell["commit"]), "?")
    times = [json.loads(line) for line in (OUT / "times.jsonl").read_text().splitlines()]
    spent = sum(entry["seconds"] for entry in times)
    took = "" if seconds is None else f" This call took {seconds / 60:.1f} minutes."
    parts = [
        "# MT-net's paper (Lee and Choi 2018), measured",
        f"{date.today()}, commit {commit:.9}. {len(cells)} runs, {steps:,} outer steps in all, {spent / 60:.1f} "
        f"minutes of command time on two lanes of one thread each.{took} Each cell: published (quoted from memory, not "
        f"verified) → mean over seeds {', '.join(map(str, SEEDS))} (each ± half its 95 % interval over 600 tasks).",
        "## Sinusoid of varying frequency, one step of 0.01, MSE",
        sinusoid_table(),
        "More steps than the one trained for, 10-shot, means over seeds:",
        step_table(),
        " ".join(f"![](adapted_curves_{algo}.png)" for algo in ROBUST),
        "## Inner learning rate, 10-shot, 60,000 iterations, MSE after one step",
        robustness_table(),
        "![](learning_rates.png)",
        "## Initialisation, 10-shot, 20,000 iterations, MSE after one step",
        init_table(),
        "![](initialisations.png)",
        "## Polynomials: does the subspace grow with the tasks",
        subspace_table(found),
        *(f"![](subspace_masks_{kind}.png) ![](subspace_directions_{kind}.png)" for kind in found),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, default=2, help="commands side by side, a thread each")
    parser.add_argument("--report", action="store_true", help="run nothing: write the report of what there is")
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "times.jsonl").touch()
    seconds = None
    if not arguments.report:
        began = time.monotonic()
        with ThreadPoolExecutor(arguments.lanes) as lanes:
            list(lanes.map(run, sweeps()))
        seconds = time.monotonic() - began
    text = report(seconds)
    (OUT / "report.md").write_text(text)
    print(text)
    print(f"Figures and tables: {OUT}")


if __name__ == "__main__":
    main()
