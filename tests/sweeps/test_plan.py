"""The jobs of a multirun: what they are called, and what of them is done already."""

from __future__ import annotations

import re
import time

import pytest
import yaml
from commands import metarun, start
from sweeps import LONGER, NAMES, found, stop_the_second, sweep

from metarun.experiment import session as run
from metarun.run_folder import read_result
from metarun.sweeps import plan


@pytest.mark.parametrize(("cells", "wanted"), NAMES.values(), ids=NAMES)
def test_a_cell_is_called_by_what_tells_it_from_the_others(cells, wanted):
    names = plan.job_names(cells)
    assert len(set(names)) == len(cells)
    assert all(re.fullmatch(r"[\w.,=+-]+", name) for name in names)
    if wanted:
        assert names == wanted


def test_long_names_are_cut_and_stay_different():
    cells = [[f"key{number}={value * 40}" for number in range(9)] for value in "ab"]
    names = plan.job_names(cells)
    assert len(set(names)) == 2 and all(len(name) <= plan.LONGEST_NAME for name in names)


@pytest.mark.slow
def test_stopped_and_resumed_only_what_is_missing_runs(tmp_path, monkeypatch, unbroken):
    stop_the_second(monkeypatch)
    outcome = sweep("-m", *LONGER, folder=tmp_path, sizes=())
    assert outcome.status == 143
    assert "1 of 3 cells are done. Resume: metarun sweep.resume=sweep" in outcome.err
    assert found(tmp_path) == {"seed=0": "completed", "seed=1": "interrupted"}
    monkeypatch.undo()
    before = (tmp_path / "sweep" / "seed=0" / "result.json").stat().st_mtime_ns

    outcome = metarun("sweep.resume=sweep", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert "1 are done, 1 resume, 2 to run" in outcome.out
    assert (tmp_path / "sweep" / "seed=0" / "result.json").stat().st_mtime_ns == before
    for seed in (0, 1, 2):
        ours, whole = (read_result(folder / f"seed={seed}") for folder in (tmp_path / "sweep", unbroken))
        assert (ours["mean"], ours["steps"]) == (whole["mean"], whole["steps"])
    config = yaml.safe_load((tmp_path / "sweep" / "seed=1" / ".hydra" / "config.yaml").read_text())
    assert config["run"]["resume"] is None  # it is the run that was started, not one that resumes another


@pytest.mark.slow
def test_a_multirun_that_is_done_runs_nothing_and_shows_its_table(unbroken, monkeypatch):
    monkeypatch.setattr(run.Experiment, "prepare_folder", lambda self: pytest.fail("a cell began"))
    outcome = metarun(f"sweep.resume={unbroken}", folder=unbroken.parent)
    assert outcome.status == 0
    assert "3 of 3 cells completed" in outcome.out


@pytest.mark.slow
def test_another_launcher_may_go_on_but_nothing_else_may_change(unbroken):
    assert metarun(f"sweep.resume={unbroken}", "hydra/launcher=fused", folder=unbroken.parent).status == 0
    outcome = metarun(f"sweep.resume={unbroken}", "seed=0,1,2,3", folder=unbroken.parent)
    assert outcome.status == 2
    assert "seed=0,1,2,3 contradicts the multirun" in outcome.err and "seed=0,1,2" in outcome.err


@pytest.mark.slow
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
