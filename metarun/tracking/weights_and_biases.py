"""Weights & Biases: offline by default; after its start, no failure of W&B stops a run.

Files. Everything is written to `wandb/` in the run's folder, including the copies of tables that wait for their upload
and the service's own log. A resumed run writes a second `offline-run-*` folder with the same run id, marked as a
resume: `wandb sync` uploads both, in order, as one run.

Steps. W&B drops a row whose own step is not above that of the last row. So the step of a row is the iteration if that
is higher, else one more than the last step (for a run that resumes online below what was uploaded before it died). The
x axis of every plot is the value `iteration`, which is always the true one.

Killed processes. W&B's file lacks what a killed process logged in its last FLUSH_SECONDS, and its last row, which W&B
keeps open for more values of its step; online it lacks what was logged since the last upload, up to 15 s ago. So a
resumed run first records again what W&B may lack of its metrics.jsonl (cut to the checkpoint before `start`): offline
the last REPLAYED_ROWS, online the rows above the last iteration that the service has. No point is lost, and a point
recorded twice is the same point.

Settings. W&B's own environment variables count where a key of `tracker.wandb` is null; see `wandb_settings`.

Failure. `start` raises TrackerError, after START_SECONDS at most, before anything is trained. After that, the first
error of W&B is logged as a warning that says what is not recorded, the tracker records nothing more, and the numbers
are in metrics.jsonl and result.json as always. A service that goes away during an online run is noticed only at the
end of the run, which waits UPLOAD_SECONDS for it, and before that 19 s, which W&B allows for an answer about a table;
the warning says how to upload the rest later.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from secrets import token_hex
from typing import Any, Concatenate, Literal, ParamSpec, cast

from metarun.tracking.begun import read_begun, write_begun
from metarun.tracking.jsonl import read_metrics
from metarun.tracking.records import flat_result, name_of
from metarun.tracking.tracker import TrackerError
from metarun.tracking.wandb_settings import KEPT, agents_run_id, wandb_settings

log = logging.getLogger(__name__)

START_SECONDS = 20.0  # for the service to answer; WANDB_INIT_TIMEOUT overrides it
UPLOAD_SECONDS = 300.0  # for what is left at the end; WANDB_FINISH_TIMEOUT overrides it
FLUSH_SECONDS = 1.0
REPLAYED_ROWS = 100  # more than a run logs in FLUSH_SECONDS
OF_ONE_RUN = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RESUME")
P = ParamSpec("P")


def never_fatal(
    method: Callable[Concatenate[WandbTracker, P], None],
) -> Callable[Concatenate[WandbTracker, P], None]:
    """Make a method do nothing without a run, and turn an error of W&B into a warning and the end of recording."""

    @wraps(method)
    def guarded(self: WandbTracker, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.run is None or self.broken:
            return
        try:
            with self.environment():
                method(self, *args, **kwargs)
        except Exception as error:  # wandb raises errors of its own, OSError, ValueError, ...: none may stop a run
            log.log(
                logging.DEBUG if self.warned else logging.WARNING,
                "W&B %s (%s: %s). The run is not affected; its numbers are in metrics.jsonl and result.json.%s",
                "does not have all of this run"
                if method.__name__ == "close"
                else f"records nothing from iteration {self.iteration} on",
                type(error).__name__,
                error,
                self.upload_later(),
            )
            self.broken = self.warned = True

    return guarded


class WandbTracker:
    """A run in Weights & Biases; implements `Tracker`.

    Args:
        mode: `offline`, `online` or `disabled` (nothing is recorded, and wandb is not imported).
        project: the W&B project.
        entity: user or team; None for the account's own.
        tags: of every run, in addition to those that `start` gets.
        group: of every run, instead of the one that `start` gets; None for that one.
        log_model: whether `artifact` records the checkpoint.
        name: of the run, instead of the one that `start` gets.
        notes: of the run.
        dir: the folder in which `wandb/` is written; None for the run's.

    What is None is W&B's environment variable of that name, where it is set; see `wandb_settings`.

    Raises:
        ValueError: a value, or that of an environment variable, makes no sense.
    """

    def __init__(
        self,
        mode: str | None,
        project: str | None,
        entity: str | None,
        tags: Sequence[str] | None,
        group: str | None,
        log_model: bool,
        name: str | None = None,
        notes: str | None = None,
        dir: str | None = None,  # noqa: A002  (W&B's word)
    ) -> None:
        self.typed = {"mode": mode, "project": project, "entity": entity, "tags": tags, "group": group}
        self.typed |= {"name": name, "notes": notes, "dir": dir}
        self.settings = wandb_settings(self.typed, os.environ)
        self.log_model = log_model
        self.run_id: str | None = None
        self.run: Any = None
        self.broken = False
        self.warned = False
        self.tables: dict[str, Callable[[], Any]] = {}  # functions that make the tables and plots, by name
        self.iteration: int | None = None  # of the row being filled
        self.step = -1  # W&B's own step of that row
        self.folder = Path()
        self.several = False  # it is a run of a multirun

    def start(
        self,
        folder: Path,
        config: dict[str, Any],
        name: str,
        group: str | None,
        tags: Sequence[str],
        run_id: str | None,
    ) -> None:
        self.several = group is not None
        begun = folder / "wandb" / "settings.json"
        if run_id is not None:
            self.settings = wandb_settings(self.typed, os.environ, read_begun(begun, KEPT))
        if self.mode == "disabled":
            return
        self.folder = folder.resolve()
        (self.folder / "wandb").mkdir(parents=True, exist_ok=True)
        name = name_of(self.settings.name, name, folder, group)
        with self.environment():
            known = run_id or agents_run_id(os.environ, self.several)
            self.run = self.open_run(
                config, name, self.settings.group or group, tags, known, resumes=run_id is not None
            )
            self.run_id = self.run.id
            self.step = self.run.starting_step - 1  # `run.step` is 0 until the first row, of a resumed run too
        write_begun(begun, self.settings.kept())
        if run_id is not None:
            self.replay(folder / "metrics.jsonl")

    @property
    def mode(self) -> str:
        """`offline`, `online` or `disabled`, whoever says so."""
        return self.settings.mode

    def describe(self) -> dict[str, Any]:
        """How the run is recorded, for `result.json`."""
        return {**self.settings.kept(), "run_id": self.run_id}

    def open_run(
        self,
        config: dict[str, Any],
        name: str,
        group: str | None,
        tags: Sequence[str],
        run_id: str | None,
        resumes: bool,
    ) -> Any:
        """Call `wandb.init`.

        Raises:
            TrackerError: it failed, for whatever reason.
        """
        try:
            import wandb

            # Before init, which otherwise asks for an account at a terminal: an unattended run would wait for ever.
            wandb.setup(settings=wandb.Settings(silent=True))
            run = wandb.init(
                dir=self.settings.dir or str(self.folder),
                mode=cast(Literal["offline", "online"], self.mode),
                project=self.settings.project,
                entity=self.settings.entity,
                name=name,
                notes=self.settings.notes,
                group=group,
                tags=list(dict.fromkeys([*self.settings.tags, *tags])),
                id=run_id or (token_hex(4) if self.several else None),  # None: also what W&B has read of WANDB_RUN_ID
                resume="allow" if resumes else None,
                reinit="create_new",  # keeps a run open that a calling program has opened
                config=self.with_settings(config),
                # disable_git: otherwise wandb records the repository around the working folder, which may be any;
                # the commit of metarun is in result.json.
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    disable_git=True,
                    save_code=False,
                    init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", START_SECONDS)),
                    finish_timeout=float(os.environ.get("WANDB_FINISH_TIMEOUT", UPLOAD_SECONDS)),
                    finish_timeout_raises=True,
                    **flush_setting(wandb.Settings.model_fields),
                ),
            )
            run.define_metric("iteration")
            run.define_metric("*", step_metric="iteration")
            return run
        except Exception as error:
            why, advice, _ = " ".join(str(error).split()).partition(" Consider increasing the init_timeout")
            said_by = f" (by {self.settings.said_by})" if self.settings.said_by else ""
            longer = "; WANDB_INIT_TIMEOUT=SECONDS waits longer" if advice else ""
            raise TrackerError(
                f"W&B cannot start with tracker.wandb.mode={self.mode}{said_by}: {why}{longer} "
                "(tracker.wandb.mode=offline needs no account and no network; tracker=none uses no W&B)"
            ) from error

    def with_settings(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration of a run, with what W&B's environment variables say where it says nothing."""
        tracker = config.get("tracker")
        if not isinstance(tracker, dict) or not isinstance(tracker.get("wandb"), dict):
            return config
        return {**config, "tracker": {**tracker, "wandb": {**tracker["wandb"], **self.settings.kept()}}}

    @never_fatal
    def replay(self, metrics: Path) -> None:
        """Record the rows before the checkpoint that W&B may lack; see the module."""
        rows = read_metrics(metrics) if metrics.exists() else []
        if self.mode == "offline":
            rows = rows[-REPLAYED_ROWS:]
        else:  # the service knows its last iteration
            uploaded = self.run.summary.get("iteration", -1)
            rows = [row for row in rows if row["iteration"] > uploaded]
        for row in rows:
            iteration = row.pop("iteration")
            self.log({key: float("nan") if value is None else value for key, value in row.items()}, iteration)

    @never_fatal
    def log(self, values: dict[str, float], iteration: int) -> None:
        if iteration != self.iteration:
            self.iteration, self.step = iteration, max(iteration, self.step + 1)
        self.add_to_row(values)

    @never_fatal
    def curve(self, metric: str, rows: list[dict[str, Any]]) -> None:
        def plot() -> Any:
            import wandb

            columns: list[str | int] = ["step", "mean", "ci95", "median"]
            table = wandb.Table(columns=columns, data=[[row[str(c)] for c in columns] for row in rows])
            # The plot records its table too, as curve/METRIC_table.
            return wandb.plot.line(table, "step", "mean", title=f"{metric} after adaptation steps")

        self.tables[f"curve/{metric}"] = plot

    def add_tables(self) -> None:
        """Record tables and plots. Called last: online, W&B asks the service about each, and waits 19 s at most."""
        for name, make in self.tables.items():
            self.add_to_row({name: make()})

    @never_fatal
    def figure(self, name: str, path: Path) -> None:
        import wandb

        self.add_to_row({f"figures/{name}": wandb.Image(str(path))})

    @never_fatal
    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        def table() -> Any:
            import wandb

            return wandb.Table(columns=list(columns), data=rows)

        self.tables[name] = table

    @never_fatal
    def lines(self, name: str, x_name: str, lines: dict[str, list[tuple[float, float | None]]]) -> None:
        drawn = {line: [(x, y) for x, y in points if y is not None] for line, points in lines.items()}

        def plot() -> Any:
            import wandb

            return wandb.plot.line_series(
                xs=[[x for x, _ in points] for points in drawn.values()],
                ys=[[y for _, y in points] for points in drawn.values()],
                keys=list(drawn),
                title=name,
                xname=x_name,
            )

        self.tables[name] = plot

    @never_fatal
    def summary(self, result: dict[str, Any]) -> None:
        self.run.summary.update(flat_result(result))

    @never_fatal
    def artifact(self, folder: Path) -> None:
        if not self.log_model:
            return
        import wandb

        artifact = wandb.Artifact(f"checkpoint-{self.run_id}", type="model")
        # "immutable": the files are uploaded from this folder, not from a second copy on the disk.
        artifact.add_dir(str(folder.resolve()), policy="immutable")
        self.run.log_artifact(artifact)

    def finish(self, exit_code: int) -> None:
        self.broken = False  # also after an earlier call failed: what W&B has so far is closed
        self.close(exit_code)
        self.run = None

    @never_fatal
    def close(self, exit_code: int) -> None:
        """Record the tables and end W&B's run."""
        try:
            self.add_tables()
        finally:
            self.run.finish(exit_code=exit_code)

    def upload_later(self) -> str:
        """The command that uploads what was recorded and did not reach the service; empty offline."""
        folder = shlex.quote(str(Path(self.run.dir).parent))
        return f" To upload it later: wandb sync --include-online {folder}" if self.mode == "online" else ""

    def add_to_row(self, values: Mapping[str, Any]) -> None:
        """Add values to the row of the current iteration; W&B merges what is logged at one step."""
        axis = {} if self.iteration is None else {"iteration": self.iteration}
        self.run.log({**axis, **values}, step=max(self.step, 0))

    @contextmanager
    def environment(self) -> Iterator[None]:
        """Set what wandb reads from the environment only, unless the user has set it; restored afterwards.

        Otherwise files wait for their upload in the home folder, which may be read-only, and even an offline run looks
        up the host of W&B's error reports. What names one run or one sweep of W&B's is hidden from a multirun, all of
        whose cells would be that run.
        """
        variables = {
            "WANDB_DATA_DIR": str(self.folder / "wandb"),
            "WANDB_CACHE_DIR": str(self.folder / "wandb"),
            "WANDB_ERROR_REPORTING": "false",
        }
        added = {key: value for key, value in variables.items() if key not in os.environ}
        hidden = {key: os.environ.pop(key) for key in OF_ONE_RUN if self.several and key in os.environ}
        os.environ.update(added)
        try:
            yield
        finally:
            for key in added:
                os.environ.pop(key, None)
            os.environ.update(hidden)


def flush_setting(fields: Mapping[str, Any]) -> dict[str, Any]:
    """How often wandb writes to its file; a killed process loses the rest. Without it that is every 15 s.

    Args:
        fields: the settings that wandb has; this one is internal, and may be dropped.
    """
    name = "x_transaction_log_flush_interval"
    return {name: FLUSH_SECONDS} if name in fields else {}
