"""Trackio: local files only; nothing reaches the network (`trackio sync` uploads a project to a Space later).

Files. Trackio keeps a SQLite file for each project in TRACKIO_DIR, else in its folder of the user's cache, where
`trackio show` finds it. The folder is read once, when Trackio is imported: all runs of a process share it.

Killed and resumed runs. A killed process loses what Trackio has not written, half a second. The run is continued by its
id: what of metrics.jsonl (cut to the checkpoint) it lacks is recorded, and a point that it has is not recorded again.

Trackio turns its own errors into warnings; here the first one ends the recording, and is told once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from secrets import token_hex
from typing import Any

from metarun.checks import require
from metarun.tracking.begun import read_begun, write_begun
from metarun.tracking.records import (
    AsTables,
    Recorded,
    flat_config,
    flat_result,
    measured,
    name_of,
    not_installed,
    recorded_rows,
)
from metarun.tracking.tracker import TrackerError


class TrackioTracker(AsTables):
    """A run in Trackio; implements `Tracker`.

    Args:
        project: Trackio's project.
        name: of the run, instead of the one that `start` gets.
        dir: Trackio's folder; None: TRACKIO_DIR, else Trackio's own.

    Raises:
        ValueError: an empty name.
    """

    def __init__(
        self,
        project: str = "metarun",
        name: str | None = None,
        dir: str | None = None,  # noqa: A002  (as in tracker.wandb)
    ) -> None:
        require("tracker.trackio.project", project, project.strip(), "a text that is not empty")
        for key, value in {"name": name, "dir": dir}.items():
            require(f"tracker.trackio.{key}", value, value is None or value.strip(), "null or a text that is not empty")
        self.project, self.name, self.dir = project, name, dir
        self.run_id: str | None = None
        self.run: Any = None
        self.recorded = Recorded()
        self.iteration = 0

    def describe(self) -> dict[str, Any]:
        """How the run is recorded, for `result.json`."""
        return {"project": self.project, "dir": self.dir, "run_id": self.run_id}

    def start(
        self,
        folder: Path,
        config: dict[str, Any],
        name: str,
        group: str | None,
        tags: Sequence[str],
        run_id: str | None,
    ) -> None:
        del tags  # Trackio has none; the configuration has the choices
        begun = folder / "trackio.json"
        known = read_begun(begun, ("dir",)) if run_id else {}
        self.dir = folder_of_process(self.dir or known.get("dir"))
        name = name_of(self.name, name, folder, group)
        self.run_id = run_id or token_hex(16)
        try:
            with silent():
                self.recorded = Recorded(points_of(self.project, self.run_id))
                self.run = new_run(self.project, name, self.run_id, group, flat_config(config))
            for iteration, values in recorded_rows(folder / "metrics.jsonl"):
                self.log(values, iteration)
            self.raise_problem()
        except Exception as error:  # SQLite's, OSError, ...
            raise TrackerError(f"tracker=trackio cannot write to {self.dir}: {error}") from error
        write_begun(begun, {"dir": self.dir})

    def raise_problem(self) -> None:
        """Raise what Trackio has only warned of."""
        if self.run.problem:
            raise RuntimeError(self.run.problem)

    def record(self, values: dict[str, Any]) -> None:
        """Record what is not recorded for this iteration."""
        self.raise_problem()
        if new := self.recorded.new(values, self.iteration):
            self.run.log(new, step=self.iteration)

    def log(self, values: dict[str, float], iteration: int) -> None:
        self.iteration = iteration
        self.record(dict(values))

    def figure(self, name: str, path: Path) -> None:
        import trackio

        self.record({f"figures/{name}": trackio.Image(str(path))})

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        import trackio

        self.record({f"tables/{name}": trackio.Table(columns=columns, data=rows)})

    def summary(self, result: dict[str, Any]) -> None:
        """Numbers on the test tasks as metrics, and all of it as a table."""
        summary = flat_result(result)
        self.log(measured(summary), self.iteration)
        self.table("result", ["key", "value"], [[key, str(value)] for key, value in summary.items()])

    def artifact(self, folder: Path) -> None:
        """Trackio's own folder would hold a second copy of every checkpoint."""

    def finish(self, exit_code: int) -> None:
        del exit_code  # it stands in the result
        run, self.run = self.run, None
        if run is not None:
            with silent():
                run.finish()
            if run.problem:
                raise RuntimeError(run.problem)


def folder_of_process(wanted: str | None) -> str:
    """Import Trackio, with its folder.

    Raises:
        TrackerError: it cannot be imported, or was imported with another folder.
    """
    first = "trackio" not in sys.modules
    before = os.environ.get("TRACKIO_DIR")
    if first and wanted:
        os.environ["TRACKIO_DIR"] = str(Path(wanted).absolute())
    try:
        import trackio.utils
    except ImportError as error:
        raise not_installed("trackio", error) from error
    finally:
        if first and wanted:
            os.environ.pop("TRACKIO_DIR", None)
            if before is not None:
                os.environ["TRACKIO_DIR"] = before
    place = trackio.utils.TRACKIO_DIR.absolute()
    if wanted and Path(wanted).absolute() != place:
        raise TrackerError(
            f"tracker.trackio.dir must be one folder for all runs of a process, which began with {place}; got {wanted}"
        )
    return str(place)


def points_of(project: str, run_id: str) -> Iterator[tuple[str, int]]:
    """(key, iteration) of what Trackio has of a run."""
    from trackio.sqlite_storage import SQLiteStorage

    for row in SQLiteStorage.get_logs(project, run_id=run_id):
        yield from ((key, row["step"]) for key in row if key not in ("step", "timestamp"))


def new_run(project: str, name: str, run_id: str, group: str | None, config: dict[str, Any]) -> Any:
    """A run of Trackio's that is local, whatever the environment says.

    `trackio.init` finds the run to continue by its name only, which runs of different folders may share; and a run of
    Trackio's asks the Hub for the user's name.
    """
    from trackio import Run

    class LocalRun(Run):
        problem: str | None = None

        def _get_username(self) -> str | None:
            return None

        def _warn_once(self, key: str, message: str) -> None:
            del key
            self.problem = self.problem or message

    return LocalRun(url=None, project=project, client=None, name=name, run_id=run_id, group=group, config=config)


@contextmanager
def silent() -> Iterator[None]:
    """Inside, what Trackio prints is not shown."""
    with redirect_stdout(StringIO()):
        yield
