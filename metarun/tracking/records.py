"""What the trackers share: a run's configuration, result and tables in flat form, and which points are recorded."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metarun.tracking.jsonl import read_metrics
from metarun.tracking.tracker import TrackerError

CURVE = ("step", "mean", "ci95", "median")  # columns of a metric after 0..S adaptation steps
Lines = Mapping[str, Sequence[tuple[float, float | None]]]


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """A configuration by dotted keys; lists and null as text."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flat_config(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


def flat_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """The content of result.json: `test/METRIC` with `_ci95` and `_median`, the rest under `result/`."""
    summary: dict[str, Any] = {}
    headline = {result["metric"]: result} if result.get("metric") else {}
    for metric, estimate in {**headline, **result.get("metrics", {})}.items():
        summary[f"test/{metric}"] = estimate.get("mean")
        summary[f"test/{metric}_ci95"] = estimate.get("ci95")
        summary[f"test/{metric}_median"] = estimate.get("median")
    for key, value in result.items():
        if key not in ("mean", "ci95", "median") and isinstance(value, str | int | float):
            summary[f"result/{key}"] = value
    for key, value in (result.get("paper") or {}).items():
        summary[f"paper/{key}"] = value
    return {key: value for key, value in summary.items() if value is not None}


def measured(summary: Mapping[str, Any]) -> dict[str, float]:
    """What of a `flat_result` is a number on the test tasks."""
    return {
        key: float(value)
        for key, value in summary.items()
        if key.startswith("test/") and isinstance(value, int | float) and not isinstance(value, bool)
    }


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join("" if cell is None else str(cell) for cell in line) + " |" for line in lines)


class AsTables:
    """Curves and lines as tables, for services without plots of their own; each run's PNGs have the plots."""

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        raise NotImplementedError

    def curve(self, metric: str, rows: list[dict[str, Any]]) -> None:
        self.table(f"curve/{metric}", list(CURVE), [[row[column] for column in CURVE] for row in rows])

    def lines(self, name: str, x_name: str, lines: dict[str, list[tuple[float, float | None]]]) -> None:
        rows = [[line, x, y] for line, points in lines.items() for x, y in points if y is not None]
        self.table(name, ["line", x_name, "y"], rows)


class Recorded:
    """The points that a service has of a run, so that none is recorded twice: where a run is resumed, and where a key
    is in two rows of one iteration (`time/train_seconds`, of training and of validation).

    A killed run may have recorded points after its checkpoint. The resumed run comes to them again, and neither MLflow
    nor Trackio can replace a point: the first one stays.

    Args:
        points: (key, iteration) of each.
    """

    def __init__(self, points: Iterable[tuple[str, int]] = ()) -> None:
        self.points = set(points)

    def new(self, values: Mapping[str, Any], iteration: int) -> dict[str, Any]:
        """Those of the values that are not recorded for this iteration; from now on they are."""
        new = {key: value for key, value in values.items() if (key, iteration) not in self.points}
        self.points |= {(key, iteration) for key in new}
        return new


def recorded_rows(metrics: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """(iteration, values) of each row of a metrics.jsonl, cut to the checkpoint; none where there is no file."""
    for row in read_metrics(metrics) if metrics.exists() else []:
        iteration = int(row.pop("iteration"))
        yield iteration, {key: float("nan") if value is None else value for key, value in row.items()}


def name_of(own: str | None, name: str, folder: Path, group: str | None) -> str:
    """What a run is called: as the user says, in a multirun with the cell's folder; else by its usual name."""
    if not own:
        return name
    return own if group is None else f"{own}/{folder.name}"


def not_installed(choice: str, error: ImportError) -> TrackerError:
    """What to say where a tracker's package cannot be imported."""
    return TrackerError(
        f"tracker={choice} needs the package {choice}, which cannot be imported ({error}): "
        f"pip install 'metarun[{choice}]'"
    )
