"""A record is written from the folders of its runs, whatever they hold."""

from __future__ import annotations

import json
from datetime import date

import pytest
from commands import SMALL, metarun

from metarun.run_folder import read_result
from scripts.results.from_runs import Runs, record_runs
from scripts.results.records import load, path_of

OVERRIDES = ("algo=maml", "data=sinusoid", *SMALL)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        ended = metarun(*OVERRIDES, f"seed={seed}", f"hydra.run.dir={place / str(seed)}", folder=place)
        assert ended.status == 0, ended.err
    return [place / "0", place / "1"]


@pytest.mark.slow
def test_a_record_is_what_its_runs_say(folders, tmp_path):
    runs = Runs("sinusoid", "maml", folders)
    path = record_runs(runs, tmp_path, note="why")
    (record,) = load(tmp_path)
    assert path == path_of("sinusoid", "maml", tmp_path)
    results = [read_result(folder) for folder in folders]
    assert [(run.seed, run.mean, run.ci95) for run in record.runs] == [
        (r["seed"], r["mean"], r["ci95"]) for r in results
    ]
    assert [run.seconds for run in record.runs] == [result["train_seconds"] for result in results]
    assert record.mean == pytest.approx((results[0]["mean"] + results[1]["mean"]) / 2, abs=1e-12)
    assert (record.origin, record.step, record.iterations, record.tasks) == ("run", 1, 60, 20)
    assert (record.metric, record.better, record.compiled, record.threads) == ("mse", "lower", False, 1)
    words = [word for word in SMALL if not word.startswith("tracker")]
    assert record.command == " ".join(["metarun", *OVERRIDES[:2], *words])
    assert record.config["run"]["iterations"] == 60 and record.config["seed"] == 0
    assert record.date == date.today().isoformat()
    assert record.measure("mse", 2).runs[1].mean == results[1]["steps"][2]["mean"]
    assert record.measure("median_mse", 0).runs[0].mean == results[0]["steps"][0]["median"]
    assert record.measure("nll").runs[0].ci95 == results[0]["metrics"]["nll"]["ci95"]
    record_runs(runs._replace(others=[{"directions": 1.0}, {"directions": 2.0}]), tmp_path)
    assert load(tmp_path)[0].note == "why"  # handed on
    beside = load(tmp_path)[0].measure("directions", 1)
    assert ([run.mean for run in beside.runs], beside.mean) == ([1.0, 2.0], 1.5)


@pytest.mark.slow
def test_without_every_run_there_is_no_record(folders, tmp_path):
    assert record_runs(Runs("sinusoid", "maml", [*folders, tmp_path / "missing"]), tmp_path) is None
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    (stopped / "result.json").write_text(json.dumps({"format": 1, "status": "interrupted"}))
    assert record_runs(Runs("sinusoid", "maml", [stopped]), tmp_path) is None
    assert not (tmp_path / "sinusoid").exists()
