"""What a multirun ends in: a table and a figure of all its cells, on the terminal, on disk and in W&B.

In the multirun's folder: `sweep.json` (cells, table, robustness), `table.md`, `table.tex`, `figure.png`, `figure.pdf`,
and `wandb/` with a run of its own in the group of the cells.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Sequence
from math import log10
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.text import Text

from metarun.experiment.multirun import multirun
from metarun.experiment.targets import make, refuse_foreign_targets
from metarun.files import write_json, write_text
from metarun.plain_text import one_line, say
from metarun.report import sweep_figures, tables
from metarun.report.compare import Rates, Table, over_rates, tabulate
from metarun.report.console import PlainConsole
from metarun.report.style import axis_name, scale_of
from metarun.report.tables import Panels
from metarun.run_folder import Run, read_run, read_runs, read_tracker_ids
from metarun.tracking.trackers import Trackers, write_run_ids
from metarun.tracking.wandb_settings import wandb_mode

log = logging.getLogger(__name__)


class Summary(Callback):
    """Hydra's callback; named in conf/config.yaml."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self.began = time.time()
        if ignores_run_id(config):
            say("WANDB_RUN_ID is ignored: each cell of a multirun has an id of its own")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Hydra would turn an error here into a warning and exit status 0."""
        if multirun.all_refused():
            return  # nothing ran, and why was said
        try:
            summarize(config, time.time() - self.began)
        except Exception as error:
            say(f"the multirun's summary failed ({type(error).__name__}: {one_line(str(error))})")
            log.debug(traceback.format_exc())
            multirun.note_failure()


def ignores_run_id(config: DictConfig) -> bool:
    """Whether a user who has set one id for W&B is to hear that the cells do not take it."""
    tracker = config.get("tracker")
    if not os.environ.get("WANDB_RUN_ID") or not tracker or not tracker.get("wandb"):
        return False
    try:
        return wandb_mode(tracker.wandb.get("mode"), os.environ)[0] != "disabled"
    except ValueError:  # the cells will refuse it
        return False


def summarize(config: DictConfig, seconds: float) -> None:
    """Write and show what the cells of a multirun came to."""
    folder = Path(config.hydra.sweep.dir)
    runs = [read_run(cell.folder, str(cell.folder.relative_to(folder))) for cell in multirun.jobs]
    runs = runs or read_runs([folder])
    table = tabulate(runs)
    panels = over_rates(table)
    write_json(folder / "sweep.json", as_json(config, runs, table, panels, seconds))
    write_text(folder / "table.md", tables.markdown(table, panels))
    write_text(folder / "table.tex", tables.latex(table))
    drawn = draw(folder, table, panels)
    show(folder, runs, table, panels, seconds)
    record(config, folder, table, panels, drawn)


def as_json(config: DictConfig, runs: Sequence[Run], table: Table, panels: Panels, seconds: float) -> dict[str, Any]:
    """`sweep.json`."""
    keys = ("algo", "data", "seed", "metric", "mean", "ci95", "median", "tasks", "error", "train_seconds")
    return {
        "overrides": OmegaConf.to_container(config.hydra.overrides.task),
        "launcher": str(config.hydra.runtime.choices["hydra/launcher"]),
        "seconds": round(seconds, 1),
        "cells": [
            {
                "folder": run.name,
                "status": run.status,
                "problem": run.problem,
                **{key: run.result.get(key) for key in keys},
                "overrides": run.result.get("overrides", run.overrides),
            }
            for run in runs
        ],
        "table": [
            {
                "algo": entry.algo,
                "setting": dict(entry.setting),
                "metric": entry.metric,
                "mean": entry.mean,
                "ci95": entry.ci95,
                "interval_over": entry.over,
                "seeds": entry.values,
                "not_completed": entry.bad,
                "best": entry.best,
                "tie": entry.tie,
                "paper": entry.paper,
            }
            for entry in table.entries.values()
        ],
        "robustness": [
            {
                "algo": line.algo,
                "setting": dict(setting),
                "decades": line.width,
                "best_rate": line.best_rate,
                "rates": line.rates,
            }
            for setting, lines in panels.items()
            for line in lines
        ],
    }


def draw(folder: Path, table: Table, panels: Panels) -> list[Path]:
    """A figure for each metric: sensitivity to the inner learning rate where that was swept, else bars of the learners.

    Returns:
        The paths: `figure.png` and `figure.pdf`, and of a second metric `figure_METRIC.png` and so on.
    """
    found: list[Path] = []
    for metric in dict.fromkeys(entry.metric for entry in table.entries.values() if entry.values):
        stem = f"figure_{metric}" if found else "figure"
        own = {
            name: list(map(line_of, lines))
            for name, lines in tables.named(panels)
            if metric in [line.metric for line in lines]
        }
        for path in (folder / f"{stem}.png", folder / f"{stem}.pdf"):
            if own:
                sweep_figures.sensitivity(own, metric, path)
            else:
                bars(table, metric, path)
            found.append(path)
    return found


def line_of(line: Rates) -> sweep_figures.Line:
    seeds = [[run.mean for run in entry.runs] for entry in line.entries]
    papers = [entry.paper["value"] if entry.paper else None for entry in line.entries]
    return sweep_figures.Line(line.algo, line.rates, seeds, papers)


def bars(table: Table, metric: str, path: Path) -> None:
    """Learners as bars, settings along the axis."""
    scale = scale_of(metric)
    settings = [at for at in table.settings if any(e and e.metric == metric for e in table.column(at))]
    groups = {}
    for algo in table.algos:
        entries = [table.entries.get((algo, setting)) for setting in settings]
        groups[algo] = [[scale * value for value in entry.values] if entry else [] for entry in entries]
    names = [name.replace(", ", "\n") for name in tables.setting_names(settings)]
    sweep_figures.bars({"": groups}, names, axis_name(metric), path)


def show(folder: Path, runs: Sequence[Run], table: Table, panels: Panels, seconds: float) -> None:
    """The table on the terminal, and what did not complete."""
    console = PlainConsole(soft_wrap=False)
    console.print()
    tables.print_comparison(table, panels, console)
    for run in runs:
        if run.status != "completed":
            console.print(Text.assemble((run.status, "bold red"), f" {run.name}: {run.why}"), soft_wrap=True)
    done = sum(run.status == "completed" for run in runs)
    console.print(f"{done} of {len(runs)} cells completed, {seconds:.0f} s in all", highlight=False)
    console.print(Text(str(folder)), soft_wrap=True, highlight=False)


def record(config: DictConfig, folder: Path, table: Table, panels: Panels, drawn: Sequence[Path]) -> None:
    """The W&B run that carries the tables and the plots, in the group of the cells; gone on with by `sweep.resume`."""
    nodes: Any = OmegaConf.to_container(config.tracker, resolve=True)
    refuse_foreign_targets({"tracker": nodes})
    tracker = Trackers({name: make(f"tracker.{name}", node) for name, node in nodes.items()})
    file = folder / "tracker.json"
    known = read_tracker_ids(file)
    overrides = OmegaConf.to_container(config.hydra.overrides.task)
    tracker.start(folder, {"overrides": overrides}, f"{folder.name}/summary", folder.name, ["summary"], known)
    if tracker.run_ids != known:
        write_run_ids(file, tracker.run_ids)
    for path in drawn:
        if path.suffix == ".png":
            tracker.figure(path.stem, path)
    # last, for online W&B asks the service about each table and waits, long where nobody answers
    for name, (columns, rows) in plain_tables(table, panels).items():
        tracker.table(f"sweep/{name}", columns, rows)
    for name, own in tables.named(panels):
        lines = {
            line.algo: [(log10(rate), e.mean) for rate, e in zip(line.rates, line.entries, strict=True) if rate > 0]
            for line in own
        }
        tracker.lines(f"sweep/sensitivity {name}".strip(), "log10 of the inner learning rate", lines)
    tracker.finish(0)


def plain_tables(table: Table, panels: Panels) -> dict[str, tuple[list[str], list[list[Any]]]]:
    """Tables by name, as columns and rows."""
    names = dict(zip(table.settings, tables.setting_names(table.settings), strict=True))
    rows = [
        [
            *(entry.algo, names[entry.setting], entry.metric, entry.mean, entry.ci95, len(entry.values)),
            *(tables.bad(entry), entry.best, entry.paper["value"] if entry.paper else None),
        ]
        for entry in table.entries.values()
    ]
    columns = ["algo", "setting", "metric", "mean", "ci95", "seeds", "not completed", "best", "published"]
    found = {"table": (columns, rows)}
    if panels:
        robust = [[line.algo, name, line.width, line.best_rate] for name, own in tables.named(panels) for line in own]
        found["robustness"] = (["algo", "setting", "decades within 10 %", "best rate"], robust)
    return found
