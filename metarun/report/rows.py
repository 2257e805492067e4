"""Runs as data: one row each, chosen by their settings, written as CSV or JSON."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from metarun.files import write_json, write_text
from metarun.run_folder import Run, as_number

# Of every run, in this order, before its metrics and its configuration.
OF_RESULT = (
    *("metric", "mean", "ci95", "median", "tasks", "step", "iterations", "train_seconds", "test_seconds"),
    *("compile_seconds", "iterations_per_second", "peak_memory_mb", "parameters", "device", "threads", "compiled"),
    *("commit", "episodes"),
)
ABOUT = ("name", "folder", "status", "algo", "data", "backbone", "seed")


class Condition(NamedTuple):
    """What `--where` asks of a run: `KEY=PATTERN`, or `KEY!=PATTERN`.

    Attributes:
        key: `algo`, `status`, `seed`, ... or a key of the configuration, `data.shots`.
        pattern: a value as it is typed, with `*` and `?` for letters.
        equal: whether it must fit, or must not.
    """

    key: str
    pattern: str
    equal: bool

    @classmethod
    def read(cls, word: str) -> Condition:
        """A condition as it is typed.

        Raises:
            ValueError: it is none.
        """
        key, sign, pattern = word.partition("=")
        equal = not key.endswith("!")
        key = key.removesuffix("!")
        if not sign or not key:
            raise ValueError(f"--where must be conditions KEY=VALUE or KEY!=VALUE; got {word!r}")
        return cls(key, pattern, equal)

    def holds(self, run: Run) -> bool:
        """Whether a run fits; one that does not have the key has the value `null`."""
        return self.equal == _fits(value_of(run, self.key), self.pattern)


def select(runs: Sequence[Run], conditions: Sequence[str]) -> list[Run]:
    """The runs that fit all conditions.

    Args:
        runs: all.
        conditions: words of `--where`, each of one or more conditions: `algo=maml data.shots=1`.

    Raises:
        ValueError: one is no condition.
        LookupError: no run has such a key, or none fits.
    """
    read = [Condition.read(word) for text in conditions for word in shlex.split(text)]
    known = {*ABOUT, *(key for run in runs for key in run.settings)}
    for condition in read:
        if condition.key not in known:
            near = get_close_matches(condition.key, sorted(known), 3) or sorted(ABOUT)
            raise LookupError(f"no run has the key {condition.key}. Nearest: {', '.join(near)}")
    chosen = [run for run in runs if all(condition.holds(run) for condition in read)]
    if not chosen:
        raise LookupError(f"none of {len(runs)} runs fits --where {' '.join(conditions)}")
    return chosen


def value_of(run: Run, key: str) -> Any:
    """What a run has under a key; None: nothing."""
    return _about(run)[key] if key in ABOUT else _setting(run, key)


def _setting(run: Run, key: str) -> Any:
    """A setting; one that refers to another, `${data.ways}`, has that one's value."""
    value = run.settings.get(key)
    for _ in range(10):
        if not (isinstance(value, str) and value.startswith("${") and value.endswith("}")):
            break
        value = run.settings.get(value[2:-1], None)
    return value


def _fits(value: Any, pattern: str) -> bool:
    """Whether a value is what was typed: numbers by their value, all else by its text."""
    number, wanted = as_number(value), as_number(pattern)
    if number is not None and wanted is not None:
        return number == wanted
    return fnmatchcase(_text(value), pattern)


def _text(value: Any) -> str:
    """A value as it is typed."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return str(value)


# ------------------------------------------------------------------------------------------------------- times


def minutes_to(run: Run, target: float) -> float | None:
    """Minutes of training until the validation metric is first at the target or better; None: it never was."""
    key = f"val/{run.metric}"
    for row in run.history():
        value, seconds = row.get(key), row.get("time/train_seconds")
        if value is None or seconds is None:
            continue
        if value >= target if run.higher_is_better else value <= target:
            return float(seconds) / 60
    return None


# ------------------------------------------------------------------------------------------------- differences


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings in which runs differ, each with its values as they are typed, in the order of the runs."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: [_text(_setting(run, key)) if key in run.settings else "" for run in runs] for key in keys}
    return {key: row for key, row in values.items() if len(set(row)) > 1 and not key.startswith(("hydra.", "sweep."))}


# ------------------------------------------------------------------------------------------------------- files


def row(run: Run, target: float | None = None) -> dict[str, Any]:
    """Everything of a run: what it is, its result, other metrics as `METRIC.mean`, its configuration."""
    found = _about(run) | {name: run.result.get(name) for name in OF_RESULT}
    if target is not None:
        found["minutes_to_target"] = minutes_to(run, target)
    found["problem"] = run.why or None
    return found | dict(_metrics(run)) | {key: _setting(run, key) for key in run.settings}


def _about(run: Run) -> dict[str, Any]:
    values = (run.name, str(run.folder), run.status, run.algo, run.data, run.backbone, run.seed)
    return dict(zip(ABOUT, values, strict=True))


def _metrics(run: Run) -> Iterator[tuple[str, Any]]:
    metrics = run.result.get("metrics")
    for name, values in (metrics if isinstance(metrics, dict) else {}).items():
        for statistic in ("mean", "ci95"):
            yield f"{name}.{statistic}", values.get(statistic) if isinstance(values, dict) else None


def write_runs_json(runs: Sequence[Run], path: Path, target: float | None = None) -> None:
    """A list of rows.

    Raises:
        OSError: it cannot be written.
    """
    write_json(path, [row(run, target) for run in runs])


def write_runs_csv(runs: Sequence[Run], path: Path, target: float | None = None) -> None:
    """A table with a column for every key that some run has; a value that is a list is written as it is typed.

    Raises:
        OSError: it cannot be written.
    """
    rows = [row(run, target) for run in runs]
    columns = list(dict.fromkeys(key for entry in rows for key in entry))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    table.writeheader()
    for entry in rows:
        table.writerow({key: "" if value is None else _cell(value) for key, value in entry.items()})
    write_text(path, text.getvalue())


def _cell(value: Any) -> Any:
    return _text(value) if isinstance(value, list | bool) else value
