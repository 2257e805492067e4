"""What Trackio shows, read back by its own command, and of its file."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from commands import SMALL, metarun
from tracked import ITERATIONS, VALIDATED, killed_and_resumed

from metarun.tracking import trackio as module
from metarun.tracking.trackio import TrackioTracker


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run that is recorded in a folder of its own, although the environment names a Space, and a token is there."""
    place = tmp_path_factory.mktemp("trackio")
    made = f"TrackioTracker(dir={str(place / 'records')!r})"
    environment = {"TRACKIO_SPACE_ID": "somebody/space", "HF_TOKEN": "hf_secret", "HF_HOME": str(place / "home")}
    return killed_and_resumed(place / "a run", "metarun.tracking.trackio", made, **environment)


def asked(folder: Path, *words: str) -> dict:
    """What `trackio ... --json` says."""
    environment = {**os.environ, "TRACKIO_DIR": str(folder.parent / "records"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "trackio.cli", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rows(folder: Path) -> list[tuple[int, dict]]:
    """(step, values) of each row of the run."""
    with sqlite3.connect(folder.parent / "records" / "metarun.db") as file:
        found = file.execute("SELECT step, metrics, run_id FROM metrics ORDER BY step, id").fetchall()
    assert {run_id for *_, run_id in found} == {(folder / "run_id").read_text()}
    return [(step, json.loads(values)) for step, values, _ in found]


def points(folder: Path, key: str) -> list[tuple[int, float]]:
    return [(step, values[key]) for step, values in rows(folder) if key in values]


@pytest.mark.slow
def test_of_a_run_that_was_killed_and_resumed_no_point_is_lost_or_doubled(folder):
    assert points(folder, "train/loss") == [(i, 1 / i) for i in ITERATIONS]
    assert points(folder, "val/accuracy") == [(i, i / 1000) for i in VALIDATED]
    assert [step for step, _ in points(folder, "time/train_seconds")] == ITERATIONS


@pytest.mark.slow
def test_trackio_s_own_command_shows_the_run(folder):
    assert asked(folder, "list", "runs", "--project", "metarun")["runs"] == ["omniglot/maml/run"]
    words = ("get", "metric", "--project", "metarun", "--run", "omniglot/maml/run", "--metric", "train/loss")
    assert [point["step"] for point in asked(folder, *words)["values"]] == ITERATIONS


@pytest.mark.slow
def test_result_figures_and_tables(folder):
    last = {key: value for step, values in rows(folder) if step == 800 for key, value in values.items()}
    assert (last["test/accuracy"], last["test/nll"]) == (0.95, 0.25)
    assert last["tables/instances"]["_value"] == [
        {"instance": 1, "accuracy": 0.2},
        {"instance": 2, "accuracy": 0.9},
    ]
    assert {"key": "result/tasks", "value": "600"} in last["tables/result"]["_value"]
    picture = folder.parent / "records" / "media" / last["figures/step_curve"]["file_path"]
    assert picture.read_bytes() == (folder / "step_curve.png").read_bytes()


@pytest.mark.slow
def test_configuration_and_group(folder):
    with sqlite3.connect(folder.parent / "records" / "metarun.db") as file:
        ((text,),) = file.execute("SELECT config FROM configs").fetchall()
    config = json.loads(text)
    assert (config["algo.inner_lr"], config["choices.algo"], config["_Group"]) == (0.01, "maml", "rates")
    assert config["_Username"] is None  # for which Trackio would ask the Hub


def test_what_trackio_only_warns_of_ends_the_recording():
    class Run:
        problem = "failed to flush"

        def log(self, *_, **__):
            raise AssertionError

        def finish(self):
            print("please wait")

    tracker = TrackioTracker()
    tracker.run = Run()
    with pytest.raises(RuntimeError, match="failed to flush"):
        tracker.log({"train/loss": 1.0}, 10)
    with pytest.raises(RuntimeError, match="failed to flush"):
        tracker.finish(0)
    tracker.finish(0)


def test_what_trackio_prints_is_not_shown(capsys):
    with module.silent():
        print("* Trackio project initialized")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("key", ["project", "name", "dir"])
def test_an_empty_name_is_refused(key, tmp_path):
    outcome = metarun(*SMALL, "tracker=trackio", f"tracker.trackio.{key}=''", folder=tmp_path)
    assert outcome.status == 2 and f"tracker.trackio.{key} must be " in outcome.err


def test_without_its_package_the_command_says_which_extra(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("trackio.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "trackio", None)
    outcome = metarun(*SMALL, "tracker=trackio", "hydra.run.dir=run", folder=tmp_path)
    assert outcome.status == 2 and "pip install 'metarun[trackio]'" in outcome.err
    assert outcome.err.count("\n") == 1 and not (tmp_path / "run").exists()
