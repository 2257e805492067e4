"""A multirun: which cells there are, what they are called, what one that fails leaves, and how it goes on."""

from __future__ import annotations

import pytest
import yaml
from commands import metarun
from omegaconf import OmegaConf
from sweeps import QUICK, REFUSED, found, sweep

from metarun.experiment import run
from metarun.experiment.trainer import Trainer
from metarun.run_folder import read_result, read_run
from metarun.sweeps import grid


@pytest.mark.slow
def test_lr_sensitivity_sets_each_learner_s_own_rate(tmp_path):
    outcome = sweep(
        "sweep=lr_sensitivity", "algo=maml,meta_sgd", "sweep.inner_lr=[0.01,0.1]", "sweep.seed=[4]", folder=tmp_path
    )
    assert outcome.status == 0, outcome.err
    cells = sorted((tmp_path / "sweep").glob("*/result.json"))
    configs = [yaml.safe_load((cell.parent / ".hydra" / "config.yaml").read_text()) for cell in cells]
    rates = [config["algo"].get("inner_lr", config["algo"].get("initial_rates")) for config in configs]
    assert rates == [0.01, 0.1, [0.01, 0.01], [0.1, 0.1]]
    assert {config["seed"] for config in configs} == {4}
    assert [read_run(cell.parent).inner_lr for cell in cells] == [0.01, 0.1, 0.01, 0.1]


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["oracle", "maml,oracle"])
def test_a_learner_without_an_inner_rate_is_refused_by_name_before_anything_runs(algo, tmp_path):
    outcome = sweep("sweep=lr_sensitivity", f"algo={algo}", folder=tmp_path)
    assert outcome.status == 2
    assert "algo=oracle has no inner learning rate" in outcome.err and "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_seeds_is_a_multirun_of_seeds_unless_others_are_named(tmp_path):
    assert sweep("sweep=seeds", "algo=maml", "seed=7,8", folder=tmp_path).status == 0
    assert found(tmp_path) == {"seed=7": "completed", "seed=8": "completed"}
    composed = metarun("sweep=seeds", "--cfg", "job", folder=tmp_path).out
    assert yaml.safe_load(composed)["sweep"]["seed"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("seeds", "arguments", "wanted"),
    [
        ([1, 2], ["++seed=5,6"], [["++seed=5"], ["++seed=6"]]),
        ([1, 2], ["algo=maml", "+seed=5"], [["algo=maml", "+seed=5"]]),
        ([1, 2], ["~algo.x"], [["~algo.x", "seed=1"], ["~algo.x", "seed=2"]]),
        (None, ["x='a,b','c=d'", "sweep=seeds"], [["x='a,b'"], ["x='c=d'"]]),
        (None, ["data.root=a,b"], [["data.root=a"], ["data.root=b"]]),
    ],
)
def test_a_key_is_swept_once_however_it_is_written(seeds, arguments, wanted):
    config = OmegaConf.create({"sweep": {"seed": seeds, "inner_lr": None}})
    assert list(grid.grid(None, config, grid.parsed(arguments))) == wanted


def test_a_rate_on_the_command_line_wins_over_the_sweeps():
    config = OmegaConf.create({"sweep": {"seed": [1], "inner_lr": [0.1, 0.2]}})
    assert list(grid.grid(None, config, grid.parsed(["++algo.inner_lr=.3"]))) == [["++algo.inner_lr=.3", "seed=1"]]


@pytest.mark.parametrize(("arguments", "wanted"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(arguments, wanted, tmp_path):
    outcome = sweep(*arguments, folder=tmp_path)
    assert outcome.status == 2
    for word in wanted:
        assert word in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_launcher_gets_at_most_so_many_cells_at_once(tmp_path):
    assert sweep("-m", "seed=0,1,2", "hydra.sweeper.max_batch_size=2", folder=tmp_path).status == 0
    assert found(tmp_path) == {f"seed={seed}": "completed" for seed in (0, 1, 2)}


@pytest.mark.slow
def test_a_cell_that_raises_is_recorded_with_its_traceback_and_the_rest_runs(tmp_path, monkeypatch):
    train = Trainer.train

    def broken(self):
        if self.experiment.seed == 1:
            raise ZeroDivisionError("one cell's own fault")
        train(self)

    monkeypatch.setattr(Trainer, "train", broken)
    outcome = sweep("-m", "seed=0,1,2", folder=tmp_path)
    assert outcome.status == 1
    assert found(tmp_path) == {"seed=0": "completed", "seed=1": "failed", "seed=2": "completed"}
    result = read_result(tmp_path / "sweep" / "seed=1")
    assert result["error"] == "ZeroDivisionError: one cell's own fault"
    log = (tmp_path / "sweep" / "seed=1" / "metarun.log").read_text()
    assert "Traceback" in log and "one cell's own fault" in log
    assert "2 of 3 cells completed" in outcome.out


@pytest.mark.slow
def test_so_is_one_that_raises_before_it_is_a_run(tmp_path, monkeypatch):
    whole = run.run

    def broken(spec):
        if spec.cfg.seed == 0:
            raise KeyError("unforeseen")
        return whole(spec)

    monkeypatch.setattr(run, "run", broken)
    assert sweep("-m", "seed=0,1", folder=tmp_path).status == 1
    assert found(tmp_path) == {"seed=0": "failed", "seed=1": "completed"}
    assert "unforeseen" in read_result(tmp_path / "sweep" / "seed=0")["traceback"]
    assert "unforeseen" in (tmp_path / "sweep" / "seed=0" / "metarun.log").read_text()


def test_a_single_run_that_raises_is_not_a_multirun_s_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        metarun(*QUICK, "hydra.run.dir=run", folder=tmp_path)


@pytest.mark.slow
def test_a_failed_cell_runs_again_when_the_multirun_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "train", lambda self: 1 / 0)
    assert sweep("-m", "seed=0,1", folder=tmp_path).status == 1
    monkeypatch.undo()
    assert metarun("sweep.resume=sweep", folder=tmp_path).status == 0
    assert found(tmp_path) == {"seed=0": "completed", "seed=1": "completed"}


@pytest.mark.slow
def test_a_cell_whose_process_died_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr("metarun.cli.main.record_exit", lambda *_: None)
    assert sweep("-m", "seed=0,1", folder=tmp_path).status == 0
    (tmp_path / "sweep" / "seed=1" / "result.json").unlink()
    monkeypatch.setattr(grid, "launch", lambda *_: [])
    outcome = sweep("-m", "seed=0,1", folder=tmp_path)
    assert outcome.status == 1
    assert "unfinished seed=1" in outcome.out
