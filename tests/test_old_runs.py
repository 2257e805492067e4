"""Folders of an earlier version still load, resume, are tested again and reported.

tests/fixtures/format_0 holds small ones as version 0.1.0 left them at commit a5b50f1, before modules, keys and streams
were renamed (paths of the machine they were made on are replaced), expected.json what unbroken runs came to.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from commands import metarun

import metarun as package
from metarun.algos.mtnet import MTNet
from metarun.experiment.build import saved_config
from metarun.report.numbers import origin
from metarun.run_folder import read_result, read_run, read_runs
from metarun.tasks import Examples
from metarun.tracking.jsonl import read_metrics

FIXTURES = Path(__file__).parent / "fixtures" / "format_0"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())


@pytest.fixture
def old(tmp_path) -> Path:
    """A copy that may be written to."""
    return shutil.copytree(FIXTURES, tmp_path / "old")


def test_the_fixtures_are_of_the_old_format():
    result = json.loads((FIXTURES / "completed" / "result.json").read_text())
    assert "format" not in result and "split" in result
    assert "optimizer.schedule=halve" in (FIXTURES / "completed" / ".hydra" / "overrides.yaml").read_text()
    state = torch.load(next((FIXTURES / "batches" / "checkpoint").glob("*.state")), weights_only=True)
    assert {"noise", "tasks/flat"} <= set(state["generators"])


def test_it_is_loaded(old):
    learner = package.load(old / "completed").learner
    assert isinstance(learner, MTNet)
    support = Examples(torch.randn(10, 1), torch.randn(10, 1))
    random_inputs = torch.zeros(1, sum(zeta.numel() for zeta in learner.logits))
    assert learner.adapt(support, random_inputs)(torch.randn(7, 1)).shape == (7, 1)


def test_its_configuration_has_todays_names(old):
    cfg, choices = saved_config(old / "completed")
    assert choices["algo"] == "mtnet"
    assert (cfg.run.meta_batch_size, cfg.run.test_weights, cfg.device.task_micro_batch) == (4, "last", 3)
    assert (cfg.optimizer.max_grad_norm, cfg.scheduler.step_size, cfg.scheduler.gamma) == (1, 200, 0.5)
    assert cfg.data._target_ == "metarun.data.sinusoid.Sinusoid"


def test_it_is_tested_again(old):
    outcome = metarun(f"run.evaluate={old / 'completed'}", "hydra.run.dir=again", folder=old)
    assert outcome.status == 0, outcome.err
    result = read_result(old / "again")
    assert result["episodes"] == EXPECTED["completed"]["episodes"]  # the very same tasks
    assert result["mean"] == pytest.approx(EXPECTED["completed"]["mean"], rel=1e-5)


STATUS = "quoted from memory, not verified"  # of a published figure, before its text was named
OLD_FIGURE = {"source": "A paper 2018", "ways": None, "shots": 10, "value": 0.49, "ci95": 0.05, "status": STATUS}


@pytest.mark.parametrize("format_of_result", [None, 1])
def test_its_published_figure_with_a_status_is_read_and_shown(format_of_result, old):
    folder = old / "completed"
    config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
    config["paper"] = [OLD_FIGURE]
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    result = json.loads((folder / "result.json").read_text())
    result |= {"paper": {key: OLD_FIGURE[key] for key in ("source", "value", "ci95", "status")}}
    result |= {"format": format_of_result} if format_of_result else {}
    (folder / "result.json").write_text(json.dumps(result))
    assert isinstance(package.load(folder).learner, MTNet)
    figure = read_result(folder)["paper"]
    assert "status" not in figure and origin(figure) == f"A paper 2018 (read: {STATUS})"
    outcome = metarun(f"run.evaluate={folder}", "hydra.run.dir=again", folder=old)
    assert outcome.status == 0, outcome.err
    assert read_result(old / "again")["paper"] == figure


@pytest.mark.slow
@pytest.mark.parametrize("name", ["interrupted", "batches"])
def test_it_is_resumed_with_the_same_tasks_and_random_inputs(name, old):
    """Rounding differs between processors; other tasks, masks or rates would differ in the first digits."""
    outcome = metarun(f"run.resume={old / name}", folder=old)
    assert outcome.status == 0, outcome.err
    row = read_metrics(old / name / "metrics.jsonl")[0]
    assert {key: row[key] for key in EXPECTED[name]["first_row"]} == pytest.approx(
        EXPECTED[name]["first_row"], rel=1e-4
    )
    result = read_result(old / name)
    assert (result["status"], result["format"], result["iterations"]) == ("completed", 1, 600)
    assert result["episodes"] == EXPECTED[name]["episodes"]
    assert result["mean"] == pytest.approx(EXPECTED[name]["mean"], rel=0.02)


@pytest.mark.slow
def test_a_multirun_is_resumed(old):
    before = (old / "sweep" / "inner_lr=0.01_seed=0" / "result.json").read_text()
    outcome = metarun(f"sweep.resume={old / 'sweep'}", folder=old)
    assert outcome.status == 0, outcome.err
    assert "4 cells: 2 are done, 0 resume, 2 to run" in outcome.out
    assert (old / "sweep" / "inner_lr=0.01_seed=0" / "result.json").read_text() == before
    for run in read_runs([old / "sweep"]):
        assert run.mean == pytest.approx(EXPECTED[f"sweep/{run.name}"]["mean"], rel=1e-3)


@pytest.mark.slow
def test_it_is_reported_beside_a_new_one(old, monkeypatch, capsys):
    from metarun.report.main import main

    run = read_run(old / "completed")
    assert run.status == "completed" and run.settings["run.meta_batch_size"] == 4
    assert "partition" in run.result and "run.meta_batch_size=4" in run.overrides
    assert metarun(f"run.evaluate={old / 'completed'}", "hydra.run.dir=again", folder=old).status == 0
    monkeypatch.chdir(old)
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main(["completed", "again"]))
    assert not ended.value.code
    assert "mtnet" in capsys.readouterr().out
