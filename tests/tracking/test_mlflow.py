"""What MLflow shows, read back by its own client."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import SMALL, metarun
from tracked import ITERATIONS, VALIDATED, killed_and_resumed

from metarun.tracking.mlflow import MLflowTracker, absolute, environment
from metarun.tracking.tracker import TrackerError

DATABASE = "mlflow.db"


def client_of(folder: Path) -> Any:
    with environment():
        from mlflow.tracking import MlflowClient

        return MlflowClient(f"sqlite:///{folder / DATABASE}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run whose tracker was not told where: in the current folder."""
    run = tmp_path_factory.mktemp("mlflow") / "a run"
    made = "MLflowTracker(log_model=True)"
    return killed_and_resumed(run, "metarun.tracking.mlflow", made, MLFLOW_TRACKING_URI="", MLFLOW_EXPERIMENT_NAME="")


@pytest.fixture(scope="module")
def client(folder) -> Any:
    return client_of(folder)


@pytest.fixture(scope="module")
def run(folder, client) -> Any:
    return client.get_run((folder / "run_id").read_text())


def points(client: Any, run: Any, key: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, key))


@pytest.mark.slow
def test_of_a_run_that_was_killed_and_resumed_no_point_is_lost_or_doubled(client, run):
    assert points(client, run, "train/loss") == [(i, 1 / i) for i in ITERATIONS]
    assert points(client, run, "val/accuracy") == [(i, i / 1000) for i in VALIDATED]
    assert [step for step, _ in points(client, run, "time/train_seconds")] == ITERATIONS


@pytest.mark.slow
def test_there_is_one_run_and_it_is_finished(client, run):
    assert [found.info.run_id for found in client.search_runs([run.info.experiment_id])] == [run.info.run_id]
    assert client.get_experiment(run.info.experiment_id).name == "metarun"
    assert (run.info.status, run.info.run_name) == ("FINISHED", "omniglot/maml/run")
    assert (run.data.tags["metarun.group"], run.data.tags["metarun.tags"]) == ("rates", "maml, omniglot")


@pytest.mark.slow
def test_configuration_and_result(run):
    assert {key: run.data.params[key] for key in ("algo.inner_lr", "data.hidden", "choices.algo")} == {
        "algo.inner_lr": "0.01",
        "data.hidden": "[40, 40]",
        "choices.algo": "maml",
    }
    assert (run.data.metrics["test/accuracy"], run.data.metrics["test/nll"]) == (0.95, 0.25)
    assert (run.data.tags["result/tasks"], run.data.tags["result/status"]) == ("600", "completed")


@pytest.mark.slow
def test_figures_tables_and_the_checkpoint_are_artifacts_beside_the_database(folder, run):
    place = Path(run.info.artifact_uri.removeprefix("file://").replace("%20", " "))
    assert place.is_relative_to(folder / "mlruns")
    files = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert files == {
        "config.yaml",
        "result.json",
        "figures/step_curve.png",
        "checkpoint/weights.safetensors",
        "tables/curve/accuracy.csv",
        "tables/curve/roc.csv",
        "tables/instances.csv",
    }
    assert (place / "tables" / "instances.csv").read_text() == "instance,accuracy\n1,0.2\n2,0.9\n"


@pytest.mark.slow
def test_a_run_that_the_store_lacks_begins_anew_with_all_of_metrics_jsonl(folder, client):
    tracker = MLflowTracker(uri=f"sqlite:///{folder / DATABASE}", experiment="others")
    (new := folder / "another").mkdir()
    (new / "metrics.jsonl").write_bytes((folder / "metrics.jsonl").read_bytes())
    tracker.start(new, {"seed": 0}, "name", None, [], "0" * 32)
    tracker.finish(130)
    found = client.get_run(tracker.run_id)
    assert tracker.run_id != "0" * 32 and found.info.status == "KILLED"
    assert [step for step, _ in points(client, found, "train/loss")] == ITERATIONS


@pytest.mark.slow
def test_what_a_cell_s_run_is_called(folder, client):
    tracker = MLflowTracker(uri=f"sqlite:///{folder / DATABASE}", name="mine")
    (cell := folder / "seed=0").mkdir()
    tracker.start(cell, {}, "omniglot/maml/seed=0", "a sweep", [], None)
    tracker.finish(1)
    found = client.get_run(tracker.run_id)
    assert (found.info.run_name, found.info.status) == ("mine/seed=0", "FAILED")


@pytest.mark.slow
def test_a_store_that_cannot_be_opened_is_refused(tmp_path):
    tracker = MLflowTracker(uri="nonsense://x")
    with pytest.raises(TrackerError, match="tracker.mlflow.uri=nonsense://x"):
        tracker.start(tmp_path, {}, "name", None, [], None)
    tracker.finish(2)


def test_a_file_is_kept_by_its_full_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    for uri in ("sqlite:////srv/mlflow.db", "http://host:5000", "file:///srv/runs"):
        assert absolute(uri) == uri


def test_what_the_user_has_set_of_the_environment_stays(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    with environment():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert "MLFLOW_DISABLE_TELEMETRY" not in os.environ


@pytest.mark.parametrize("key", ["uri", "experiment", "name"])
def test_an_empty_name_is_refused(key, tmp_path):
    outcome = metarun(*SMALL, "tracker=mlflow", f"tracker.mlflow.{key}=''", folder=tmp_path)
    assert outcome.status == 2 and f"tracker.mlflow.{key} must be null or a text that is not empty" in outcome.err


def test_without_its_package_the_command_says_which_extra(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("mlflow.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    outcome = metarun(*SMALL, "tracker=mlflow", "hydra.run.dir=run", folder=tmp_path)
    assert outcome.status == 2 and "pip install 'metarun[mlflow]'" in outcome.err
    assert outcome.err.count("\n") == 1 and not (tmp_path / "run").exists()
