"""The records in docs/results: one file a cell, `TARGET/CELL.json`, with every field of `Record` and no other.

`make reproduce-TARGET` writes them from runs (origin `run`). Those of origin `transcribed` hold what was written down
before records existed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from metarun.checks import require
from metarun.files import write_json

RESULTS = Path(__file__).parents[2] / "docs" / "results"
DATE = re.compile(r"\d{4}-\d\d-\d\d")
T = TypeVar("T")


@dataclass(frozen=True)
class SeedRun:
    """One trained learner.

    Attributes:
        seed: its seed; None: only the mean over several seeds was written down, with its interval over them.
        mean: over held-out tasks; None: it is not finite.
        ci95: half of the 95 % interval over held-out tasks (over seeds where `seed` is None); None: not written down.
        seconds: of training (where it was written down for all seeds together, their mean); None: not written down.
    """

    seed: int | None
    mean: float | None
    ci95: float | None
    seconds: float | None


@dataclass(frozen=True)
class Published:
    """What a paper prints for the same cell; `table` may be empty."""

    value: float
    ci95: float | None
    source: str
    table: str


@dataclass(frozen=True)
class Measure:
    """One more figure of the same runs: another metric, or the metric after another number of steps.

    Attributes:
        metric: its name in result.json, with `median_` before it for the median over tasks.
        step: steps of adaptation; None: the headline's, or the learner has none.
        runs: as in `Record`, in the same order; empty: only their mean was written down.
        mean: over the runs; None: one of them is not finite.
        published: what a paper prints for it.
    """

    metric: str
    step: int | None
    runs: list[SeedRun]
    mean: float | None
    published: Published | None = None


@dataclass(frozen=True)
class Record:
    """One cell of a table: a learner in one setting, trained with each of its seeds.

    Attributes:
        cell: its name, unique within the target; also its file's name.
        target: as in `make reproduce-TARGET`.
        algo: choice of the group `algo`.
        data: choice of the group `data`.
        experiment: choice of the group `experiment`; None: none.
        command: of the runs, without the seed.
        metric: name of the headline. Accuracies are fractions in [0, 1].
        better: whether a higher or a lower headline is better.
        step: steps of adaptation before the headline; None: the learner takes none.
        runs: one for each seed.
        mean: of the headline over the runs; None: one of them is not finite.
        tasks: held-out tasks of each run's test.
        iterations: outer steps of each run.
        threads: of each run.
        device: the machine, in words.
        commit: of metarun.
        date: of the measurement, `YYYY-MM-DD`.
        config: whole resolved configuration of the first seed, without where data and folder lie; None: not kept.
        origin: `run`: written from the runs themselves; `transcribed`: from what was written down before.
        published: what a paper prints for this cell; None: nothing that was read in it.
        note: what a reader has to know; may be empty.
        transductive: the headline's predictions of a query depend on the other queries (batch norm over the query set).
        compiled: the runs were compiled; None: not written down.
        measures: other figures of the same runs.
    """

    cell: str
    target: str
    algo: str
    data: str
    experiment: str | None
    command: str
    metric: str
    better: Literal["higher", "lower"]
    step: int | None
    runs: list[SeedRun]
    mean: float | None
    tasks: int
    iterations: int
    threads: int
    device: str
    commit: str
    date: str
    config: dict[str, Any] | None
    origin: Literal["run", "transcribed"]
    published: Published | None = None
    note: str = ""
    transductive: bool = False
    compiled: bool | None = None
    measures: list[Measure] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check what types do not say.

        Raises:
            ValueError: a value is none that a record can have.
        """
        require("cell", self.cell, re.fullmatch(r"[\w.,=+-]+( [\w.,=+-]+)*", self.cell), "words of letters and digits")
        require("target", self.target, re.fullmatch(r"\w+(/\w+)*", self.target), "a target's name")
        require("date", self.date, DATE.fullmatch(self.date), "YYYY-MM-DD")
        require("command", self.command, self.command.startswith("metarun "), "a metarun command")
        require("command", self.command, not re.search(r" seed=", self.command), "without a seed")
        require("tasks", self.tasks, self.tasks > 0, "positive")
        require("runs", self.runs, self.runs, "at least one run")
        require("config", self.config, self.origin == "transcribed" or self.config, "there, for origin run")
        seeds = [run.seed for run in self.runs]
        require("runs", seeds, len(set(seeds)) == len(seeds), "one run a seed")
        _check_figures(self.metric, self.runs, self.mean, self.origin)
        for measure in self.measures:
            _check_figures(measure.metric, measure.runs, measure.mean, self.origin)
            of_seeds = [run.seed for run in measure.runs] == seeds
            only_mean = not measure.runs and self.origin == "transcribed"
            require(measure.metric, measure.runs, of_seeds or only_mean, "of the record's seeds")

    def measure(self, metric: str, step: int | None = None) -> Measure:
        """The figure of this name, the headline among them; `step` None: the only one, or the headline's step.

        Raises:
            KeyError: there is none.
        """
        headline = Measure(self.metric, self.step, self.runs, self.mean, self.published)
        for measure in (headline, *self.measures):
            if measure.metric == metric and step in (None, measure.step):
                return measure
        raise KeyError(
            f"{self.target}/{self.cell} has no {metric}" + (f" after step {step}" if step is not None else "")
        )


def _check_figures(metric: str, runs: list[SeedRun], mean: float | None, origin: str) -> None:
    """Require fractions where the metric is an accuracy, intervals that are none below 0, and the mean of the runs.

    Raises:
        ValueError: they are not.
    """
    means = [run.mean for run in runs] or [mean]
    if metric.startswith(("accuracy", "instance_")):
        require(metric, means, all(value is None or 0 <= value <= 1 for value in means), "fractions in [0, 1]")
    require(f"{metric}, ci95", runs, all(run.ci95 is None or run.ci95 >= 0 for run in runs), "at least 0")
    finite = [value for value in means if value is not None]
    wanted = statistics.mean(finite) if len(finite) == len(means) else None
    # what was written down was rounded, mean and seeds each for itself
    rounding = 1e-9 if origin == "run" or wanted is None else max(0.0011, 0.011 * abs(wanted))
    close = mean is wanted is None or (
        mean is not None and wanted is not None and math.isclose(mean, wanted, rel_tol=0, abs_tol=rounding)
    )
    require(f"{metric}, mean", mean, close, f"the mean of the runs, {wanted}")


def path_of(target: str, cell: str, folder: Path = RESULTS) -> Path:
    """Where the record of a cell lies."""
    return folder / target / f"{cell.replace(' ', '_')}.json"


def load(folder: Path = RESULTS) -> list[Record]:
    """All records below a folder, by target and name of the cell.

    Raises:
        ValueError: a file is no record, or lies where its record does not belong; the message names it.
    """
    records = []
    for path in sorted(folder.rglob("*.json")):
        try:
            record = parse(json.loads(path.read_text(encoding="utf-8")))
            place = path_of(record.target, record.cell, folder)
            require("its place", str(path), path == place, str(place))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        records.append(record)
    return sorted(records, key=lambda record: (record.target, record.cell))


def write(record: Record, folder: Path = RESULTS) -> Path:
    """Write a record into its place, and return that."""
    path = path_of(record.target, record.cell, folder)
    write_json(path, dataclasses.asdict(record))
    return path


def parse(content: object) -> Record:
    """A record from what JSON holds.

    Raises:
        ValueError: a field is unknown, missing, or of another type.
    """
    return _parse_fields(Record, content, "")


def _parse_fields(kind: type[T], content: object, key: str) -> T:
    if not isinstance(content, Mapping):
        raise ValueError(f"{key or 'a record'} must be a mapping; got {content!r}")
    hints = get_type_hints(kind)
    prefix = f"{key}." if key else ""
    missing, unknown = sorted(hints.keys() - content.keys()), sorted(content.keys() - hints.keys())
    require(f"{prefix}fields", missing, not missing, "complete: these are missing")
    require(f"{prefix}fields", unknown, not unknown, "known: these are not")
    return kind(**{name: _parse_value(hint, content[name], prefix + name) for name, hint in hints.items()})


def _parse_value(hint: Any, value: Any, key: str) -> Any:
    """A value of a field's type.

    Raises:
        ValueError: it is of another type.
    """
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in options:
            return None
        (hint,) = (option for option in options if option is not NoneType)
        return _parse_value(hint, value, key)
    if origin is Literal:
        require(key, value, value in options, f"one of {', '.join(options)}")
        return value
    if origin is list:
        require(key, value, isinstance(value, list), "a list")
        return [_parse_value(options[0], entry, f"{key}[{index}]") for index, entry in enumerate(value)]
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _parse_fields(hint, value, key)
    kind = origin or hint
    kinds = (int, float) if kind is float else (kind,)
    is_kind = isinstance(value, kinds) and (kind is bool or not isinstance(value, bool))
    require(key, value, is_kind, f"of type {kind.__name__}")
    return value
