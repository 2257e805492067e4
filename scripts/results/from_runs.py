"""A record from the folders of its runs: nothing in it is typed but the note, which an older record hands on."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metarun.run_folder import read_choices, read_config, read_overrides, read_result
from scripts.results.configuration import recorded
from scripts.results.machine import machine
from scripts.results.published import published
from scripts.results.records import RESULTS, Measure, Record, SeedRun, parse, path_of, write

STEPS = (0, 1, 2, 3, 5, 10, 20, 50, 100)  # after which a record has the headline metric, where the run has it
LONG = 20  # steps of adaptation
# Words of a command that are of the folder it ran in or of services, and change no number.
PRIVATE = ("seed=", "hydra.run.dir=", "hydra.sweep.", "tracker", "data.root=", "run.resume=")


class Runs(NamedTuple):
    """The runs of a cell.

    Attributes:
        target: as in `make reproduce-TARGET`.
        cell: the cell's name.
        folders: one for each seed.
        launcher: choice of `hydra/launcher` that they were trained with; None: each by a command of its own.
        others: of each run, figures that its result does not hold, by name; empty: there are none.
    """

    target: str
    cell: str
    folders: Sequence[Path]
    launcher: str | None = None
    others: Sequence[Mapping[str, float]] = ()


def record_runs(runs: Runs, folder: Path = RESULTS, note: str | None = None) -> Path | None:
    """Write the record of a cell, in place of an older one.

    Args:
        runs: of the cell.
        folder: of all records.
        note: for the reader; None: that of the older record, if there is one.

    Returns:
        The record's file; None: a run came to no result, and nothing is written.
    """
    results = [result for path in runs.folders if (result := _finished(path)) is not None]
    if not results or len(results) != len(runs.folders):
        return None
    return write(make_record(runs, results, _older_note(runs, folder) if note is None else note), folder)


def make_record(runs: Runs, results: Sequence[Mapping[str, Any]], note: str) -> Record:
    """The record of a cell from the contents of its runs' `result.json`."""
    first, folder = results[0], runs.folders[0]
    choices, saved = read_choices(folder), read_config(folder)
    config = recorded(saved)
    experiment = choices.get("experiment")
    headline = _measure(first["metric"], results)
    return Record(
        cell=runs.cell,
        target=runs.target,
        algo=first["algo"],
        data=first["data"],
        experiment=None if experiment in (None, "None", "null") else experiment,
        command=_command(read_overrides(folder), runs.launcher),
        metric=first["metric"],
        better="higher" if first["higher_is_better"] else "lower",
        step=first["step"] or None,
        runs=headline.runs,
        mean=headline.mean,
        tasks=next(
            (result["tasks"] for result in results if result["tasks"]), read_config(folder)["run"]["eval_tasks"]
        ),
        iterations=max(result["iterations"] for result in results),
        threads=first["threads"],
        device=machine(first["device"]),
        commit=", ".join(sorted({f"{result['commit'] or 'unknown':.9}" for result in results})),
        date=date.fromtimestamp(max((path / "result.json").stat().st_mtime for path in runs.folders)).isoformat(),
        config=config,
        origin="run",
        published=published(saved.get("paper"), config),
        note=note,
        transductive=_is_transductive(first),
        compiled=first["compiled"],
        measures=[
            *_measures_of_steps(results),
            *_losses_of_steps(runs.folders, results),
            *_other_measures(results),
            *_measures_beside(runs, results),
        ],
    )


def _finished(folder: Path) -> dict[str, Any] | None:
    """The result of a run that completed or diverged."""
    try:
        result = read_result(folder)
    except (OSError, ValueError):
        return None
    return result if result.get("status") in ("completed", "diverged") else None


def _older_note(runs: Runs, folder: Path) -> str:
    path = path_of(runs.target, runs.cell, folder)
    return parse(json.loads(path.read_text(encoding="utf-8"))).note if path.is_file() else ""


def _command(overrides: Sequence[str], launcher: str | None) -> str:
    kept = [shlex.quote(word) for word in overrides if not word.lstrip("+~").startswith(PRIVATE)]
    words = ["metarun", *([] if launcher is None else ["-m", f"hydra/launcher={launcher}"]), *kept]
    return " ".join(words) if len(words) > 1 else "metarun "


def _measure(name: str, results: Sequence[Mapping[str, Any]], entries: Sequence[Any] = (), step: Any = None) -> Measure:
    """A figure of all runs.

    Args:
        name: of the metric.
        results: of the runs.
        entries: `mean` and `ci95` of each run, or a number; empty: those of the headline.
        step: steps of adaptation.
    """
    runs = []
    for result, entry in zip(results, entries or results, strict=True):
        entry = entry if isinstance(entry, Mapping) else {"mean": entry}
        seconds = result["train_seconds"] if not entries else None
        runs.append(SeedRun(result["seed"], entry["mean"], entry.get("ci95"), seconds))
    means = [run.mean for run in runs if run.mean is not None]
    return Measure(name, step, runs, statistics.mean(means) if len(means) == len(runs) else None)


def _measures_of_steps(results: Sequence[Mapping[str, Any]]) -> list[Measure]:
    """The headline after other numbers of steps, and of errors, which have long tails, the median over tasks."""
    first = results[0]
    measures = []
    for step in (step for step in STEPS if step in {row["step"] for row in first["steps"]}):
        rows = [next((row for row in result["steps"] if row["step"] == step), {"mean": None}) for result in results]
        if step != first["step"]:
            measures.append(_measure(first["metric"], results, rows, step))
        if not first["higher_is_better"]:
            medians = [row.get("median") for row in rows]
            measures.append(_measure(f"median_{first['metric']}", results, medians, step))
    return measures


def _losses_of_steps(folders: Sequence[Path], results: Sequence[Mapping[str, Any]]) -> list[Measure]:
    """The NLL beside an accuracy after each number of steps, of learners that take many: optimizers, by their loss."""
    if results[0]["metric"] != "accuracy" or (results[0]["step"] or 0) < LONG:
        return []
    curves = []
    for folder in folders:
        with np.load(folder / "episodes.npz") as values:
            curves.append(values["nll"].mean(0).tolist())
    last = results[0]["step"]
    steps = [step for step in STEPS if step < len(curves[0]) and step != last]
    return [_measure("nll", results, [curve[step] for curve in curves], step) for step in steps]


def _other_measures(results: Sequence[Mapping[str, Any]]) -> list[Measure]:
    first = results[0]
    step = first["step"] or None
    return [
        _measure(name, results, [result["metrics"].get(name) for result in results], step) for name in first["metrics"]
    ]


def _measures_beside(runs: Runs, results: Sequence[Mapping[str, Any]]) -> list[Measure]:
    step = results[0]["step"] or None
    names = runs.others[0] if runs.others else ()
    return [_measure(name, results, [values[name] for values in runs.others], step) for name in names]


def _is_transductive(result: Mapping[str, Any]) -> bool:
    inductive = result["metrics"].get("accuracy_inductive")
    return inductive is not None and inductive["mean"] != result["mean"]
