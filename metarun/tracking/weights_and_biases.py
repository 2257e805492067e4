"""Weights & Biases: offline by default, and never in the way of a run.

What lies where. Everything goes to `wandb/` in the run's folder, the copies in which tables wait for their
upload and the service's own log included. A resumed run writes a second `offline-run-*` folder with the
same run id, marked as a resume: `wandb sync` uploads both, in order, as one run.

Steps. W&B drops a row whose own step is not above the last one's. So the row's step is the iteration where
it rises, and one more than the last where it does not (a run that resumes online below what was uploaded
before it died). The x axis of every plot is the value `iteration`, which is always the true one.

A killed process leaves out of W&B's file what it logged in its last FLUSH_SECONDS, and its last row, which
W&B keeps open for more values of its step; online, what it logged since the last upload, up to 15 s ago. So a
run that is resumed first records again what W&B may lack of its metrics.jsonl (cut to the checkpoint before
`start`): offline the last REPLAYED_ROWS, online the rows above the last iteration that the service has. No
point is lost, and a point recorded twice is the same point.

Failure. `start` raises TrackerError, after START_SECONDS at most, before anything is trained. After that no
error of W&B stops a run: the first is logged as a warning that says what is not recorded, the tracker falls
silent, and the numbers are in metrics.jsonl and result.json as always. A service that goes away during an
online run is noticed only at its end, which waits UPLOAD_SECONDS for it, and 19 s before that, which W&B allows
for an answer about a table; the warning says how to upload the rest later.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, cast

from metarun.tracking.jsonl import read_metrics
from metarun.tracking.tracker import TrackerError

log = logging.getLogger(__name__)

START_SECONDS = 20.0  # for the service to answer; WANDB_INIT_TIMEOUT says otherwise
UPLOAD_SECONDS = 300.0  # for what is left at the end; WANDB_FINISH_TIMEOUT says otherwise
FLUSH_SECONDS = 1.0
REPLAYED_ROWS = 100  # more than a run logs in FLUSH_SECONDS
MODES = ("offline", "online", "disabled")
P = ParamSpec("P")


def never_fatal(
    method: Callable[Concatenate[WandbTracker, P], None],
) -> Callable[Concatenate[WandbTracker, P], None]:
    """The method does nothing without a run; an error of W&B becomes a warning and the end of recording."""

    @wraps(method)
    def guarded(self: WandbTracker, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.run is None or self.broken:
            return
        try:
            with self.environment():
                method(self, *args, **kwargs)
        except Exception as error:  # wandb raises its own, OSError, ValueError, ...: none is worth a run
            log.log(
                logging.DEBUG if self.warned else logging.WARNING,
                "W&B %s (%s: %s). The run is not hurt; its numbers are in metrics.jsonl and result.json.%s",
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
        mode: `offline`, `online` or `disabled` (nothing is recorded, wandb is not even imported).
        project: the W&B project.
        entity: user or team; None: the account's own.
        tags: of every run, beside those `start` is given.
        group: goes before the one `start` is given.
        log_model: whether `artifact` records the checkpoint.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(
        self,
        mode: str,
        project: str,
        entity: str | None,
        tags: Sequence[str],
        group: str | None,
        log_model: bool,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"tracker.wandb.mode must be one of {', '.join(MODES)}; got {mode!r}")
        self.mode, self.project, self.entity = mode, project, entity
        self.tags, self.group, self.log_model = list(tags), group, log_model
        self.run_id: str | None = None
        self.run: Any = None
        self.broken = False
        self.warned = False
        self.tables: dict[str, Callable[[], Any]] = {}  # what makes them, by name
        self.iteration: int | None = None  # of the row being filled
        self.step = -1  # W&B's own step of that row
        self.folder = Path()

    def start(
        self,
        folder: Path,
        config: dict[str, Any],
        name: str,
        group: str | None,
        tags: Sequence[str],
        run_id: str | None,
    ) -> None:
        if self.mode == "disabled":
            return
        self.folder = folder.resolve()
        (self.folder / "wandb").mkdir(parents=True, exist_ok=True)
        with self.environment():
            self.run = self.open_run(config, name, self.group or group, [*self.tags, *tags], run_id)
            self.run_id = self.run.id
            self.step = self.run.starting_step - 1  # `run.step` is 0 until the first row, of a resumed run too
        if run_id is not None:
            self.replay(folder / "metrics.jsonl")

    def open_run(
        self, config: dict[str, Any], name: str, group: str | None, tags: Sequence[str], run_id: str | None
    ) -> Any:
        """`wandb.init`, with every failure turned into a TrackerError."""
        try:
            import wandb

            # Before init, which at a terminal would ask for an account, and an unattended run would wait.
            wandb.setup(settings=wandb.Settings(silent=True))
            run = wandb.init(
                dir=str(self.folder),
                mode=cast(Literal["offline", "online"], self.mode),
                project=self.project,
                entity=self.entity,
                name=name,
                group=group,
                tags=list(dict.fromkeys(tags)),
                id=run_id,
                resume=None if run_id is None else "allow",
                reinit="create_new",  # leaves alone a run that a calling program has open
                config=config,
                # disable_git: it would record the repository around the working folder, whatever that is;
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
            longer = "; WANDB_INIT_TIMEOUT=SECONDS waits longer" if advice else ""
            raise TrackerError(
                f"W&B cannot start with tracker.wandb.mode={self.mode}: {why}{longer} "
                "(tracker.wandb.mode=offline needs no account and no network; tracker=none does without W&B)"
            ) from error

    @never_fatal
    def replay(self, metrics: Path) -> None:
        """Records the rows before the checkpoint that W&B may not have; see the module's head."""
        rows = read_metrics(metrics) if metrics.exists() else []
        if self.mode == "offline":
            rows = rows[-REPLAYED_ROWS:]
        else:  # the service says how far it is
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
            # The plot brings its table along, as curve/METRIC_table.
            return wandb.plot.line(table, "step", "mean", title=f"{metric} after adaptation steps")

        self.tables[f"curve/{metric}"] = plot

    def add_tables(self) -> None:
        """Last of all: online, W&B asks the service about each table and waits, 19 s where nobody answers."""
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
        known = {line: [(x, y) for x, y in points if y is not None] for line, points in lines.items()}

        def plot() -> Any:
            import wandb

            return wandb.plot.line_series(
                xs=[[x for x, _ in points] for points in known.values()],
                ys=[[y for _, y in points] for points in known.values()],
                keys=list(known),
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
        # "immutable": uploaded from where it lies instead of from a second copy on the disk.
        artifact.add_dir(str(folder.resolve()), policy="immutable")
        self.run.log_artifact(artifact)

    def finish(self, exit_code: int) -> None:
        self.broken = False  # what W&B has is worth closing, even where an earlier call failed
        self.close(exit_code)
        self.run = None

    @never_fatal
    def close(self, exit_code: int) -> None:
        try:
            self.add_tables()
        finally:
            self.run.finish(exit_code=exit_code)

    def upload_later(self) -> str:
        """How to upload what was recorded and did not reach the service."""
        place = shlex.quote(str(Path(self.run.dir).parent))
        return f" To upload it later: wandb sync --include-online {place}" if self.mode == "online" else ""

    def add_to_row(self, values: Mapping[str, Any]) -> None:
        """Adds values to the row of the current iteration; W&B merges what is logged at one step."""
        axis = {} if self.iteration is None else {"iteration": self.iteration}
        self.run.log({**axis, **values}, step=max(self.step, 0))

    @contextmanager
    def environment(self) -> Iterator[None]:
        """What wandb takes from the environment only. The user's own values win; restored afterwards.

        Without them files wait for upload in the home folder, which may be read-only, and even an offline run
        looks up the host of W&B's error reports.
        """
        wanted = {
            "WANDB_DATA_DIR": str(self.folder / "wandb"),
            "WANDB_CACHE_DIR": str(self.folder / "wandb"),
            "WANDB_ERROR_REPORTING": "false",
        }
        added = {key: value for key, value in wanted.items() if key not in os.environ}
        os.environ.update(added)
        try:
            yield
        finally:
            for key in added:
                os.environ.pop(key, None)


def flush_setting(known: Mapping[str, Any]) -> dict[str, Any]:
    """A killed process loses what waits for a flush, else 15 s. An internal setting: wandb may drop it."""
    name = "x_transaction_log_flush_interval"
    return {name: FLUSH_SECONDS} if name in known else {}


def flat_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """result.json as W&B's summary: `test/METRIC` with `_ci95` and `_median`, the rest under `result/`."""
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
