"""What the page shows of some runs, and the JSON of it that `page.js` reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from metarun.report.compare import Rates, Setting, Table, over_rates, plain, tabulate
from metarun.report.page import words
from metarun.report.page.curves import Curves
from metarun.run_folder import STATUSES, Run, leaves

SHOWN_ANYWAY = ("data", "run.iterations")  # settings that are columns of the table of runs in any case
FIRST_SELECTED = 30  # runs that are selected when the page opens, at most


@dataclass(frozen=True)
class Content:
    """The runs of a page, and what all its parts need of them.

    Attributes:
        runs: in the order of the table of runs.
    """

    runs: Sequence[Run]

    @cached_property
    def table(self) -> Table:
        """Learners by settings."""
        return tabulate(self.runs)

    @cached_property
    def rates(self) -> dict[Setting, list[Rates]]:
        """Learners over the inner learning rate, by what else varies."""
        return over_rates(self.table)

    @cached_property
    def keys(self) -> list[str]:
        """The settings that the runs differ in."""
        return list(dict.fromkeys(key for setting in self.table.settings for key, _ in setting))

    @cached_property
    def names(self) -> words.ShortKeys:
        """Short names of the settings."""
        return words.ShortKeys(self.keys)

    @cached_property
    def columns(self) -> list[str]:
        """The settings that are columns of their own in the table of runs."""
        return [key for key in self.keys if key not in SHOWN_ANYWAY]

    def value_of(self, run: Run, key: str) -> Any:
        """A run's value of a setting; None where it has none."""
        setting = self.table.values.get(id(run), {})
        return setting[key] if key in setting else plain(run.settings.get(key))

    def setting_of(self, run: Run) -> dict[str, Any]:
        """What a run may differ from others in: data, iterations and the columns of the table of runs."""
        iterations = words.finite(run.result.get("iterations"))
        columns = {key: self.value_of(run, key) for key in self.columns}
        return {"data": run.data, "run.iterations": iterations, **columns}

    @cached_property
    def algos(self) -> list[str]:
        """Every learner, also the unknown one of broken runs; its place sets its look in the plots."""
        return list(dict.fromkeys(run.algo for run in self.runs))

    @cached_property
    def metrics(self) -> list[str]:
        """Headline metrics."""
        return list(dict.fromkeys(run.metric for run in self.runs if run.metric))

    @cached_property
    def statuses(self) -> dict[str, int]:
        """How many runs have each status that occurs."""
        counts = Counter(run.status for run in self.runs)
        return {status: counts[status] for status in STATUSES if counts[status]}

    @cached_property
    def curves(self) -> Curves:
        """What the runs logged while training."""
        return Curves(self.runs)

    @cached_property
    def problems(self) -> dict[Path, str]:
        """By folder what is wrong with the run there, and why it did not complete; only runs that have anything."""
        problems = {
            run.folder: "; ".join(filter(None, (run.problem, words.beginning(run.result.get("error")), curves)))
            for run, curves in zip(self.runs, self.curves.problems, strict=True)
        }
        return {folder: problem for folder, problem in problems.items() if problem}

    @cached_property
    def curve_keys(self) -> list[str]:
        """Keys of the curves: training metrics, validation, the loss; of these first what most runs have."""
        counts = Counter(key for curves in self.curves.by_run for key in curves)
        rank = {key: 2 if key == "train/loss" else int(key.startswith("val/")) for key in counts}
        return sorted(counts, key=lambda key: (rank[key], -counts[key]))

    @cached_property
    def selected(self) -> set[int]:
        """The runs that are selected when the page opens: all, or as many as are readable, in turn of each learner."""
        if len(self.runs) <= FIRST_SELECTED:
            return set(range(len(self.runs)))
        turns: Counter[str] = Counter()
        order = []
        for place, run in enumerate(self.runs):
            order.append((turns[run.algo], self.algos.index(run.algo), place))
            turns[run.algo] += 1
        return {place for *_, place in sorted(order)[:FIRST_SELECTED]}

    @cached_property
    def group_names(self) -> dict[str, list[str]]:
        """The name of each run's group, by what runs are coloured by."""
        settings = [self.setting_of(run) for run in self.runs]
        keys = settings[0] if settings else ()
        varied = [key for key in keys if len({json.dumps(setting[key]) for setting in settings}) > 1]
        return {
            "learner": [run.algo for run in self.runs],
            "setting": [self.names.setting([(key, setting[key]) for key in varied]) for setting in settings],
            "run": [run.name for run in self.runs],
        }


# --------------------------------------------------------------------------------------------- what page.js reads


def document(content: Content) -> dict[str, Any]:
    """What `page.js` reads, but for figures and the options of the table.

    Returns:
        `runs`: name, metric, headline, steps, and curves, each as [place in `grids`, values]; `grids`: iterations of
        curves, which many runs share; `groups`: by what runs are coloured, the names and each run's place in them;
        `config`: the configurations.
    """
    return {
        "runs": [
            described(run) | {"curves": curves} for run, curves in zip(content.runs, content.curves.by_run, strict=True)
        ],
        "grids": content.curves.grids,
        "groups": {grouping: grouped(names, grouping == "run") for grouping, names in content.group_names.items()},
        "config": columns([configuration(run) for run in content.runs]),
    }


def described(run: Run) -> dict[str, Any]:
    """A run's name, and its metric by adaptation steps."""
    return {
        "name": run.name,
        "metric": run.metric,
        "higher": run.higher_is_better,
        "mean": words.finite(run.mean),
        "steps": [[words.finite(row.get(key)) for key in ("step", "mean", "ci95")] for row in steps_of(run)],
    }


def steps_of(run: Run) -> list[dict[str, Any]]:
    """A run's metric by adaptation steps; empty where the result has none."""
    steps = run.result.get("steps")
    return [row for row in steps if isinstance(row, dict)] if isinstance(steps, list) else []


def grouped(names: Sequence[str], each_its_own: bool) -> dict[str, Any]:
    """Names of groups as plotly reads them, and for each run the place of its group in them."""
    distinct = list(names) if each_its_own else list(dict.fromkeys(names))
    places = {name: place for place, name in enumerate(distinct)}
    of = list(range(len(names))) if each_its_own else [places[name] for name in names]
    return {"names": list(map(words.escaped, distinct)), "of": of}


def configuration(run: Run) -> dict[str, Any]:
    """A run's configuration by dotted key, without the published figures."""
    return dict(leaves({key: value for key, value in run.config.items() if key != "paper"}))


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """By key the different values, as text, and for each row which of them it has; -1: none."""
    table: dict[str, dict[str, list[Any]]] = {}
    for at, row in enumerate(rows):
        for key, value in row.items():
            column = table.setdefault(key, {"values": [], "at": [-1] * len(rows)})
            text = value if isinstance(value, str) else as_json(value)
            if text not in column["values"]:
                column["values"].append(text)
            column["at"][at] = column["values"].index(text)
    return table


def as_json(value: Any) -> str:
    """A value as JSON; of YAML's mappings with other keys than JSON has, as Python writes it."""
    try:
        return json.dumps(value, default=str)
    except TypeError:
        return str(value)
