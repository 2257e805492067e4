"""MLflow: a local SQLite file by default; nothing reaches the network, unless the store's URI does.

Store. MLflow's own default, `mlflow.db` in the current folder, so that `mlflow ui` there shows all runs side by side:
to create the file takes seconds, once. Its artifacts lie beside it, in `mlruns/`. MLflow's telemetry is switched off.

Killed and resumed runs. The run of MLflow is continued by its id. What of metrics.jsonl (cut to the checkpoint) it
lacks is recorded, and a point that it has is not recorded again: MLflow would keep both. A run that is not there any
more is begun anew, with all of metrics.jsonl.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metarun.checks import require
from metarun.tracking.begun import read_begun, write_begun
from metarun.tracking.records import (
    AsTables,
    Recorded,
    csv_text,
    flat_config,
    flat_result,
    measured,
    name_of,
    not_installed,
    recorded_rows,
)
from metarun.tracking.tracker import TrackerError

FILE = "sqlite:///"
PARAMETERS_AT_ONCE = 100  # MLflow takes no more
LONGEST = 500  # characters of a parameter's or a tag's value: the least that any store takes
# Read at each use, but telemetry when MLflow is imported. A server that went away holds up the run for seconds only.
VARIABLES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # which MLflow refuses by default; here it was asked for by its URI
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class MLflowTracker(AsTables):
    """A run in MLflow; implements `Tracker`.

    Args:
        uri: of the store; None: MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db`.
        experiment: None: MLFLOW_EXPERIMENT_NAME, else `metarun`.
        name: of the run, instead of the one that `start` gets.
        log_model: whether `artifact` records the checkpoint.

    Raises:
        ValueError: an empty name.
    """

    def __init__(
        self,
        uri: str | None = None,
        experiment: str | None = None,
        name: str | None = None,
        log_model: bool = False,
    ) -> None:
        for key, value in {"uri": uri, "experiment": experiment, "name": name}.items():
            require(f"tracker.mlflow.{key}", value, value is None or value.strip(), "null or a text that is not empty")
        self.uri, self.experiment, self.name, self.log_model = uri, experiment, name, log_model
        self.run_id: str | None = None
        self.client: Any = None
        self.recorded = Recorded()
        self.iteration = 0

    def describe(self) -> dict[str, Any]:
        """How the run is recorded, for `result.json`."""
        return {"uri": self.uri, "experiment": self.experiment, "run_id": self.run_id}

    def start(
        self,
        folder: Path,
        config: dict[str, Any],
        name: str,
        group: str | None,
        tags: Sequence[str],
        run_id: str | None,
    ) -> None:
        begun = folder / "mlflow.json"
        known = read_begun(begun, ("uri", "experiment")) if run_id else {}
        uri = self.uri or known.get("uri") or os.environ.get("MLFLOW_TRACKING_URI") or f"{FILE}mlflow.db"
        self.uri = absolute(uri)
        self.experiment = (
            self.experiment or known.get("experiment") or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "metarun"
        )
        with environment():
            try:
                client = opened(self.uri)
                known_as = {"metarun.group": group or "", "metarun.tags": ", ".join(tags)}
                if not (run_id and self.goes_on(client, run_id)):
                    called = name_of(self.name, name, folder, group)
                    self.run_id = new_run(client, self.experiment, self.uri, called, known_as)
                    record_parameters(client, self.run_id, config)
                client.log_dict(self.run_id, config, "config.yaml")
                self.client = client
                for iteration, values in recorded_rows(folder / "metrics.jsonl"):
                    self.log(values, iteration)
            except TrackerError:
                raise
            except Exception as error:  # MLflow's own, SQLAlchemy's, OSError, of requests, ...
                why = " ".join(str(error).split())
                raise TrackerError(f"tracker=mlflow cannot start with tracker.mlflow.uri={self.uri}: {why}") from error
        write_begun(begun, {"uri": self.uri, "experiment": self.experiment})

    def goes_on(self, client: Any, run_id: str) -> bool:
        """Whether MLflow has this run; then it is continued, and what it has recorded is known."""
        from mlflow.exceptions import MlflowException

        try:
            keys = client.get_run(run_id).data.metrics
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        points = ((key, point.step) for key in keys for point in client.get_metric_history(run_id, key))
        self.recorded = Recorded(points)
        client.update_run(run_id, status="RUNNING")
        self.run_id = run_id
        return True

    def log(self, values: dict[str, float], iteration: int) -> None:
        self.iteration = iteration
        new = self.recorded.new(values, iteration)
        if not new:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with environment():
            metrics = [Metric(key, float(value), now, iteration) for key, value in new.items()]
            self.client.log_batch(self.run_id, metrics=metrics)

    def figure(self, name: str, path: Path) -> None:
        del name  # it is the file's
        with environment():
            self.client.log_artifact(self.run_id, str(path), "figures")

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        with environment():
            self.client.log_text(self.run_id, csv_text(columns, rows), f"tables/{name}.csv")

    def summary(self, result: dict[str, Any]) -> None:
        """Numbers on the test tasks as metrics, all of it as result.json, what is no number also as tags."""
        summary = flat_result(result)
        self.log(measured(summary), self.iteration)
        with environment():
            self.client.log_dict(self.run_id, result, "result.json")
            for key, value in summary.items():
                if not key.startswith("test/"):
                    self.client.set_tag(self.run_id, key, str(value)[:LONGEST])

    def artifact(self, folder: Path) -> None:
        if self.log_model:
            with environment():
                self.client.log_artifacts(self.run_id, str(folder), "checkpoint")

    def finish(self, exit_code: int) -> None:
        client, self.client = self.client, None
        if client is not None:
            status = "FINISHED" if exit_code == 0 else "KILLED" if exit_code > 128 else "FAILED"
            with environment():
                client.set_terminated(self.run_id, status=status)


def absolute(uri: str) -> str:
    """The URI, a SQLite file in the current folder by its full path: a resumed run may be started elsewhere."""
    path = uri.removeprefix(FILE)
    return f"{FILE}{Path(path).absolute()}" if uri.startswith(FILE) and path and not path.startswith(":") else uri


def opened(uri: str) -> Any:
    """A client of a store.

    Raises:
        TrackerError: MLflow cannot be imported.
    """
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise not_installed("mlflow", error) from error
    for name in ("mlflow", "alembic"):  # they tell of each table of a new file
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def new_run(client: Any, experiment: str, uri: str, name: str, tags: Mapping[str, str]) -> str:
    """The id of a new run; makes the experiment if it is the first."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(experiment)
    if found is None:
        place = Path(uri.removeprefix(FILE)).parent / "mlruns" if uri.startswith(FILE) else None
        try:
            number = client.create_experiment(experiment, artifact_location=place and place.as_uri())
        except MlflowException:  # another run has just made it
            found = client.get_experiment_by_name(experiment)
            if found is None:
                raise
    number = found.experiment_id if found is not None else number
    run: str = client.create_run(number, run_name=name, tags={key: tag for key, tag in tags.items() if tag}).info.run_id
    return run


def record_parameters(client: Any, run_id: str, config: Mapping[str, Any]) -> None:
    """A run's configuration as parameters, which MLflow never changes: a run that is made longer keeps the first."""
    from mlflow.entities import Param

    parameters = [Param(key, str(value)[:LONGEST]) for key, value in flat_config(config).items()]
    for at in range(0, len(parameters), PARAMETERS_AT_ONCE):
        client.log_batch(run_id, params=parameters[at : at + PARAMETERS_AT_ONCE])


@contextmanager
def environment() -> Iterator[None]:
    """Inside, MLflow has the variables that it reads from the environment only, unless the user has set them."""
    added = {key: value for key, value in VARIABLES.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)
