"""The interface through which a run reports its numbers to a service.

Keys never change: `train/loss`, `train/METRIC`, `val/METRIC`, `test/METRIC`, `time/iterations_per_second` and
`learner/...`, against `iteration`. Everything that a tracker records is in the run's folder as well (metrics.jsonl,
result.json, figures), so no result is lost when a tracker fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class TrackerError(Exception):
    """A tracker cannot start; the message says why and what to do. Raised before anything is trained."""


class Tracker(Protocol):
    """Records one run. `start` is called first, `finish` last, the other methods in between.

    Attributes:
        run_id: the service's name of this run, kept so that a resumed run continues it; None if it has none.
    """

    run_id: str | None

    def start(
        self,
        folder: Path,
        config: dict[str, Any],
        name: str,
        group: str | None,
        tags: Sequence[str],
        run_id: str | None,
    ) -> None:
        """Open the record.

        Args:
            folder: the run's folder; a tracker writes to a subfolder of its own.
            config: the resolved configuration, plain containers only.
            name: of the run.
            group: shared by the runs of a sweep.
            tags: in addition to the tracker's own.
            run_id: of the run to continue; None for a new one.

        Raises:
            TrackerError: the service cannot be reached or refuses the run.
        """

    def log(self, values: dict[str, float], iteration: int) -> None:
        """Record values after outer step `iteration`; may be called several times for one iteration."""

    def curve(self, metric: str, rows: list[dict[str, Any]]) -> None:
        """Record `metric` after 0..S adaptation steps, rows {step, mean, ci95, median}, as a table and a plot."""

    def figure(self, name: str, path: Path) -> None:
        """Record a PNG that is on disk."""

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Record a table."""

    def lines(self, name: str, x_name: str, lines: dict[str, list[tuple[float, float | None]]]) -> None:
        """Record a plot of several lines, each given by points (x, y); a point whose y is None is left out."""

    def summary(self, result: dict[str, Any]) -> None:
        """Record the content of result.json."""

    def artifact(self, folder: Path) -> None:
        """Record the checkpoint in `folder`, if the user asked for it."""

    def finish(self, exit_code: int) -> None:
        """Close the record with the exit code of the run; a second call does nothing."""
