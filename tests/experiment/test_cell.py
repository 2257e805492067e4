"""What becomes of a run, whichever launcher runs it."""

from __future__ import annotations

import json

import pytest
from omegaconf import OmegaConf

from metarun.experiment.cell import RunSpec, record_exit, record_failure, refuse
from metarun.experiment.multirun import multirun


@pytest.fixture(autouse=True)
def no_command():
    multirun.clear()
    yield
    multirun.clear()


def spec(folder, sweep=None, resume=None) -> RunSpec:
    (folder / ".hydra").mkdir(parents=True)
    cfg = OmegaConf.create({"seed": 3, "run": {"resume": resume}})
    return RunSpec(cfg, {"algo": "maml", "data": "sinusoid", "backbone": "mlp"}, folder, ["seed=3"], sweep)


def test_the_exit_status_is_kept_and_the_value_returned(tmp_path):
    assert record_exit(spec(tmp_path / "run"), {"exit_status": 3, "mean": 0.5}) == 0.5
    assert multirun.exit_statuses == [3]


def test_a_signal_is_for_the_whole_multirun(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        record_exit(spec(tmp_path / "run", sweep="sweep"), {"exit_status": 143, "mean": None})
    assert record_exit(spec(tmp_path / "alone"), {"exit_status": 143, "mean": None}) is None
    assert multirun.exit_statuses == [143, 143]


def test_a_refused_run_leaves_nothing_and_a_refused_job_says_why(tmp_path, capsys):
    assert refuse(spec(tmp_path / "run"), "no such thing") == {"exit_status": 2, "mean": None}
    assert capsys.readouterr().err == "metarun: no such thing\n" and not (tmp_path / "run").exists()
    refuse(spec(tmp_path / "job", sweep="sweep"), "no such thing", silent=True)
    assert capsys.readouterr().err == ""
    result = json.loads((tmp_path / "job" / "result.json").read_text())
    assert (result["status"], result["refused"], result["error"]) == ("failed", True, "no such thing")


def test_a_refused_resume_keeps_the_folder(tmp_path, capsys):
    refuse(spec(tmp_path / "run", resume="here"), "no")
    assert (tmp_path / "run").is_dir() and capsys.readouterr().err


def test_a_job_that_could_not_write_its_result_has_one(tmp_path):
    record_failure(spec(tmp_path / "job", sweep="sweep"), {"error": "killed"})
    result = json.loads((tmp_path / "job" / "result.json").read_text())
    assert result == {
        **{"format": 1, "status": "failed", "algo": "maml", "data": "sinusoid", "backbone": "mlp"},
        **{"seed": 3, "overrides": ["seed=3"], "mean": None, "error": "killed"},
    }
