"""All trackers of a run as one: each of them records everything."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from metarun.files import write_text
from metarun.plain_text import described, say
from metarun.tracking.tracker import Tracker


class Trackers:
    """Trackers side by side, by their names in the configuration (`tracker.wandb`); see `Tracker` for the methods.

    Args:
        trackers: by name; none for a run that is recorded in its folder only.

    Attributes:
        failed: why a tracker records nothing more, by name.
    """

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self.trackers = dict(trackers)
        self.failed: dict[str, str] = {}

    @property
    def run_ids(self) -> dict[str, str]:
        """The services' names of this run, by tracker; only trackers whose service has one."""
        return {name: tracker.run_id for name, tracker in self.trackers.items() if tracker.run_id}

    def describe(self) -> dict[str, Any]:
        """How each tracker records the run, for `result.json`; only trackers that have anything to say."""
        described: dict[str, dict[str, Any]] = {
            name: getattr(tracker, "describe", dict)() for name, tracker in self.trackers.items()
        }
        return {name: fields for name, fields in described.items() if fields}

    def start(
        self,
        folder: Path,
        config: dict[str, Any],
        name: str,
        group: str | None,
        tags: Sequence[str],
        run_ids: Mapping[str, str],
    ) -> None:
        """Open the record of each tracker, in their order.

        Args:
            folder, config, name, group, tags: see `Tracker.start`.
            run_ids: of the run to continue, by tracker; a tracker without one starts a new run.

        Raises:
            TrackerError: a service cannot be reached or refuses the run.
        """
        for key, tracker in self.trackers.items():
            tracker.start(folder, config, name, group, tags, run_ids.get(key))

    def log(self, values: dict[str, float], iteration: int) -> None:
        self._each(lambda tracker: tracker.log(values, iteration))

    def curve(self, metric: str, rows: list[dict[str, Any]]) -> None:
        self._each(lambda tracker: tracker.curve(metric, rows))

    def figure(self, name: str, path: Path) -> None:
        self._each(lambda tracker: tracker.figure(name, path))

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        self._each(lambda tracker: tracker.table(name, columns, rows))

    def lines(self, name: str, x_name: str, lines: dict[str, list[tuple[float, float | None]]]) -> None:
        self._each(lambda tracker: tracker.lines(name, x_name, lines))

    def summary(self, result: dict[str, Any]) -> None:
        self._each(lambda tracker: tracker.summary(result))

    def artifact(self, folder: Path) -> None:
        self._each(lambda tracker: tracker.artifact(folder))

    def finish(self, exit_code: int) -> None:
        for name in self.failed:  # what it holds open
            with suppress(Exception):
                self.trackers[name].finish(exit_code)
        self._each(lambda tracker: tracker.finish(exit_code))

    def _each(self, record: Callable[[Tracker], None]) -> None:
        """Have every tracker record something. One that fails records nothing more, and the run goes on."""
        for name, tracker in self.trackers.items():
            if name in self.failed:
                continue
            try:
                record(tracker)
            except Exception as error:
                self.failed[name] = described(error)
                say(f"warning: tracker.{name} failed and records nothing more ({self.failed[name]}); the run goes on")


def write_run_ids(file: Path, run_ids: Mapping[str, str]) -> None:
    """Write the services' names of a run, for `metarun.run_folder.read_tracker_ids`; no file if there are none."""
    if run_ids:
        write_text(file, json.dumps(run_ids) + "\n")
