"""A multirun: which cells there are, what they are called, what one that fails leaves, and how it goes on."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest
import yaml
from commands import SMALL, Outcome, metarun, start

from metarun.experiment import session as run
from metarun.run_folder import read_result, read_run
from metarun.sweeps import grid

QUICK = (*(word for word in SMALL if not word.startswith("run.iterations")), "run.iterations=3")


def sweep(*arguments: str, folder: Path, sizes: tuple[str, ...] = QUICK) -> Outcome:
    return metarun(*sizes, *arguments, "hydra.sweep.dir=sweep", folder=folder)


def found(folder: Path) -> dict[str, str]:
    """Each cell's folder and what its result says."""
    return {path.parent.name: read_result(path.parent)["status"] for path in (folder / "sweep").glob("*/result.json")}


# ------------------------------------------------------------------------------------------- which cells there are

NAMES = {
    "learners, rates, seeds": (
        [["seed=0", "algo=maml", "algo.inner_lr=0.1"], ["seed=1", "algo=learn2learn/maml", "algo.inner_lr=0.1"]],
        ["maml_seed=0", "learn2learn-maml_seed=1"],
    ),
    "keys of one last word": ([["a.lr=1", "b.lr=2"], ["a.lr=2", "b.lr=2"], ["a.lr=1", "b.lr=3"]], None),
    "nothing varies": ([["algo=maml", "seed=3"]], ["maml"]),
    "nothing is said": ([[]], ["run"]),
    "a key of some": ([["algo=joint"], ["algo=maml", "algo.inner_lr=1"]], ["joint", "maml_inner_lr=1"]),
    "a sign": ([["a.steps=1"], ["a.steps=-1"]], ["steps=1", "steps=-1"]),
    "values that differ in what no folder can be called": ([["a.x='/'"], ["a.x='!'"]], None),
    "what no folder can be called": ([["+x.y='a/../b c'"], ["+x.y=[1,2]"]], ["y=a-..-b-c", "y=1,2"]),
}


@pytest.mark.parametrize(("cells", "wanted"), NAMES.values(), ids=NAMES)
def test_a_cell_is_called_by_what_tells_it_from_the_others(cells, wanted):
    names = grid.cell_names(cells)
    assert len(set(names)) == len(cells)
    assert all(re.fullmatch(r"[\w.,=+-]+", name) for name in names)
    if wanted:
        assert names == wanted


def test_long_names_are_cut_and_stay_different():
    cells = [[f"key{number}={value * 40}" for number in range(9)] for value in "ab"]
    names = grid.cell_names(cells)
    assert len(set(names)) == 2 and all(len(name) <= grid.LONGEST_NAME for name in names)


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


@pytest.mark.parametrize("algo", ["oracle", "maml,oracle"])
def test_a_learner_without_an_inner_rate_is_refused_by_name_before_anything_runs(algo, tmp_path):
    outcome = sweep("sweep=lr_sensitivity", f"algo={algo}", folder=tmp_path)
    assert outcome.status == 2
    assert "algo=oracle has no inner learning rate" in outcome.err and "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())


def test_seeds_is_a_multirun_of_seeds_unless_others_are_named(tmp_path):
    assert sweep("sweep=seeds", "algo=maml", "seed=7,8", folder=tmp_path).status == 0
    assert found(tmp_path) == {"seed=7": "completed", "seed=8": "completed"}
    composed = metarun("sweep=seeds", "--cfg", "job", folder=tmp_path).out
    assert yaml.safe_load(composed)["sweep"]["seed"] == [0, 1, 2, 3, 4]


REFUSED = {
    "twice": (["-m", "seed=0,0"], ["two cells would run in", "seed=0"]),
    "a range": (["-m", "algo.inner_lr=interval(0.01,0.1)"], ["interval(0.01,0.1)", "hydra/sweeper=optuna"]),
    "no multirun there": (["sweep.resume=nowhere"], ["nowhere is no multirun's folder"]),
    "another sweep": (["sweep=lr"], ["sweep=lr", "lr_sensitivity"]),
}


@pytest.mark.parametrize(("arguments", "wanted"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(arguments, wanted, tmp_path):
    outcome = sweep(*arguments, folder=tmp_path)
    assert outcome.status == 2
    for word in wanted:
        assert word in outcome.err
    assert not list(tmp_path.iterdir())


def test_a_launcher_gets_at_most_so_many_cells_at_once(tmp_path):
    assert sweep("-m", "seed=0,1,2", "hydra.sweeper.max_batch_size=2", folder=tmp_path).status == 0
    assert found(tmp_path) == {f"seed={seed}": "completed" for seed in (0, 1, 2)}


# -------------------------------------------------------------------------------------------- cells that do not end


def test_a_cell_that_raises_is_recorded_with_its_traceback_and_the_rest_runs(tmp_path, monkeypatch):
    train = run.Experiment._train

    def broken(self):
        if self.parts.seed == 1:
            raise ZeroDivisionError("one cell's own fault")
        train(self)

    monkeypatch.setattr(run.Experiment, "_train", broken)
    outcome = sweep("-m", "seed=0,1,2", folder=tmp_path)
    assert outcome.status == 1
    assert found(tmp_path) == {"seed=0": "completed", "seed=1": "failed", "seed=2": "completed"}
    result = read_result(tmp_path / "sweep" / "seed=1")
    assert result["error"] == "ZeroDivisionError: one cell's own fault"
    log = (tmp_path / "sweep" / "seed=1" / "metarun.log").read_text()
    assert "Traceback" in log and "one cell's own fault" in log
    assert "2 of 3 cells completed" in outcome.out


def test_so_is_one_that_raises_before_it_is_a_run(tmp_path, monkeypatch):
    whole = run.run

    def broken(cfg, *rest):
        if cfg.seed == 0:
            raise KeyError("unforeseen")
        return whole(cfg, *rest)

    monkeypatch.setattr(run, "run", broken)
    assert sweep("-m", "seed=0,1", folder=tmp_path).status == 1
    assert found(tmp_path) == {"seed=0": "failed", "seed=1": "completed"}
    assert "unforeseen" in read_result(tmp_path / "sweep" / "seed=0")["traceback"]
    assert "unforeseen" in (tmp_path / "sweep" / "seed=0" / "metarun.log").read_text()


def test_a_single_run_that_raises_is_not_a_multirun_s_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        metarun(*QUICK, "hydra.run.dir=run", folder=tmp_path)


def test_a_failed_cell_runs_again_when_the_multirun_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(run.Experiment, "_train", lambda self: 1 / 0)
    assert sweep("-m", "seed=0,1", folder=tmp_path).status == 1
    monkeypatch.undo()
    assert metarun("sweep.resume=sweep", folder=tmp_path).status == 0
    assert found(tmp_path) == {"seed=0": "completed", "seed=1": "completed"}


def test_a_cell_whose_process_died_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr("metarun.experiment.cell.settle", lambda *_: None)
    assert sweep("-m", "seed=0,1", folder=tmp_path).status == 0
    (tmp_path / "sweep" / "seed=1" / "result.json").unlink()
    monkeypatch.setattr(grid, "launch", lambda *_: [])
    outcome = sweep("-m", "seed=0,1", folder=tmp_path)
    assert outcome.status == 1
    assert "unfinished seed=1" in outcome.out


# ------------------------------------------------------------------------------------------------------- going on

LONGER = (*SMALL, "algo=maml", "seed=0,1,2")


def stop_the_second(monkeypatch) -> None:
    """SIGTERM in the second cell, at iteration 33."""
    count = run.Experiment.count

    def stopping(self, number, seconds, loss):
        count(self, number, seconds, loss)
        if self.parts.seed == 1 and self.training.iteration == 33:
            self.caught.append(signal.SIGTERM)

    monkeypatch.setattr(run.Experiment, "count", stopping)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    assert sweep("-m", *LONGER, folder=folder, sizes=()).status == 0
    return folder / "sweep"


def test_stopped_and_resumed_only_what_is_missing_runs(tmp_path, monkeypatch, unbroken):
    stop_the_second(monkeypatch)
    outcome = sweep("-m", *LONGER, folder=tmp_path, sizes=())
    assert outcome.status == 143
    assert "1 of 3 cells are done. Go on: metarun sweep.resume=sweep" in outcome.err
    assert found(tmp_path) == {"seed=0": "completed", "seed=1": "interrupted"}
    monkeypatch.undo()
    before = (tmp_path / "sweep" / "seed=0" / "result.json").stat().st_mtime_ns

    outcome = metarun("sweep.resume=sweep", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert "1 are done, 1 go on, 2 to run" in outcome.out
    assert (tmp_path / "sweep" / "seed=0" / "result.json").stat().st_mtime_ns == before
    for seed in (0, 1, 2):
        ours, whole = (read_result(folder / f"seed={seed}") for folder in (tmp_path / "sweep", unbroken))
        assert (ours["mean"], ours["steps"]) == (whole["mean"], whole["steps"])
    config = yaml.safe_load((tmp_path / "sweep" / "seed=1" / ".hydra" / "config.yaml").read_text())
    assert config["run"]["resume"] is None  # it is the run that was started, not one that resumes another


def test_a_multirun_that_is_done_runs_nothing_and_shows_its_table(unbroken, monkeypatch):
    monkeypatch.setattr(run.Experiment, "begin", lambda self: pytest.fail("a cell began"))
    outcome = metarun(f"sweep.resume={unbroken}", folder=unbroken.parent)
    assert outcome.status == 0
    assert "3 of 3 cells completed" in outcome.out


def test_another_launcher_may_go_on_but_nothing_else_may_change(unbroken):
    assert metarun(f"sweep.resume={unbroken}", "hydra/launcher=fused", folder=unbroken.parent).status == 0
    outcome = metarun(f"sweep.resume={unbroken}", "seed=0,1,2,3", folder=unbroken.parent)
    assert outcome.status == 2
    assert "seed=0,1,2,3 contradicts the multirun" in outcome.err and "seed=0,1,2" in outcome.err


def test_killed_in_the_middle_it_goes_on(tmp_path, unbroken):
    process = start("-m", *LONGER, "run.checkpoint_seconds=0", "hydra.sweep.dir=sweep", folder=tmp_path)
    try:
        deadline = time.monotonic() + 200
        while not (tmp_path / "sweep" / "seed=1" / "checkpoint" / "last.json").is_file():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate()
    assert metarun("sweep.resume=sweep", folder=tmp_path).status == 0
    for seed in (0, 1, 2):
        ours, whole = (read_result(folder / f"seed={seed}") for folder in (tmp_path / "sweep", unbroken))
        assert ours["mean"] == whole["mean"]
