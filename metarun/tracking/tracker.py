"""The one interface through which a run reports its numbers, and the tracker that reports to nobody.

Keys never change: `train/loss`, `train/METRIC`, `val/METRIC`, `test/METRIC`, `time/iterations_per_second` and
`learner/...`, against `iteration`. What a tracker is given also lies in the run's folder (metrics.jsonl,
result.json, figures), so a tracker may fail without a result being lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class TrackerError(Exception):
    """A tracker cannot start; the message says why and what to do. Nothing has been trained yet."""


class Tracker(Protocol):
    """Called in this order: `start`, any of the others in between, `finish`."""

    run_id: str | None
    """The service's name of this run, to be kept so that a resumed run continues it; None: no service."""

    def start(
        self,
        folder: Path,
        config: dict[str, Any],
        name: str,
        group: str | None,
        tags: Sequence[str],
        run_id: str | None,
    ) -> None:
        """Opens the record.

        Args:
            folder: the run's folder; a tracker writes in a folder of its own in it.
            config: the resolved configuration, plain containers only.
            name: what to call the run.
            group: runs of one sweep share it.
            tags: beside the tracker's own.
            run_id: of the run to continue; None: a new one.

        Raises:
            TrackerError: the service cannot be reached or refuses.
        """

    def log(self, values: dict[str, float], iteration: int) -> None:
        """Records values after outer step `iteration`; may be called several times for one iteration."""

    def curve(self, metric: str, rows: list[dict[str, Any]]) -> None:
        """Records `metric` after 0..S adaptation steps, rows {step, mean, ci95, median}: table and plot."""

    def figure(self, name: str, path: Path) -> None:
        """Records a PNG that is on disk."""

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Records a table."""

    def lines(self, name: str, x_name: str, lines: dict[str, list[tuple[float, float | None]]]) -> None:
        """Records a plot of several lines, each its points (x, y); a point without y is left out."""

    def summary(self, result: dict[str, Any]) -> None:
        """Records result.json's content."""

    def artifact(self, folder: Path) -> None:
        """Records the checkpoint in `folder`, where the user asked for it."""

    def finish(self, exit_code: int) -> None:
        """Closes the record; `exit_code` is the run's. Does nothing the second time."""


class NullTracker:
    """No service: a run's record is what every run writes to its folder."""

    run_id: str | None = None

    def start(
        self,
        folder: Path,
        config: dict[str, Any],
        name: str,
        group: str | None,
        tags: Sequence[str],
        run_id: str | None,
    ) -> None:
        """Nothing."""

    def log(self, values: dict[str, float], iteration: int) -> None:
        """Nothing."""

    def curve(self, metric: str, rows: list[dict[str, Any]]) -> None:
        """Nothing."""

    def figure(self, name: str, path: Path) -> None:
        """Nothing."""

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Nothing."""

    def lines(self, name: str, x_name: str, lines: dict[str, list[tuple[float, float | None]]]) -> None:
        """Nothing."""

    def summary(self, result: dict[str, Any]) -> None:
        """Nothing."""

    def artifact(self, folder: Path) -> None:
        """Nothing."""

    def finish(self, exit_code: int) -> None:
        """Nothing."""
