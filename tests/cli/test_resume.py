"""What a command that resumes is composed of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hydra.errors import HydraException

from metarun.cli.resume import is_multirun, split, with_saved_overrides

FIXTURES = Path(__file__).parents[1] / "fixtures" / "format_0"


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """A folder with runs of an earlier version, as the current one."""
    shutil.copytree(FIXTURES, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("algo=maml", ("algo", "maml")),
        ("a.b=x=y", ("a.b", "x=y")),
        ("-m", ("-m", None)),
        ("--cfg=job", ("--cfg=job", None)),
    ],
)
def test_an_argument_is_a_key_and_a_value_or_a_flag(argument, parts):
    assert split(argument) == parts


def test_other_commands_pass_through_and_the_multirun_flag_comes_first():
    assert with_saved_overrides(["algo=maml", "seed=1"]) == ["algo=maml", "seed=1"]
    assert with_saved_overrides(["algo=maml", "-m", "seed=1,2"]) == ["--multirun", "algo=maml", "seed=1,2"]
    assert with_saved_overrides(["sweep=seeds"]) == ["--multirun", "sweep=seeds"]
    assert with_saved_overrides(["sweep=seeds", "--cfg", "job"]) == ["sweep=seeds", "--cfg", "job"]
    assert is_multirun(["-m"]) and not is_multirun(["seed=1"])


def test_a_resumed_run_starts_with_what_it_was_started_with_by_todays_names(old):
    arguments = with_saved_overrides(["run.resume=interrupted", "seed=0"])
    assert arguments[:5] == [
        "algo=mtnet",
        "data=sinusoid",
        "run.iterations=600",
        "scheduler=step",
        "scheduler.step_size=200",
    ]
    assert arguments[-3:] == ["run.resume='interrupted'", "hydra.run.dir='interrupted'", "hydra.output_subdir=null"]
    assert "run.meta_batch_size=4" in arguments and not any("run.meta_batch=" in word for word in arguments)


def test_a_run_that_is_tested_again_may_be_changed(old):
    arguments = with_saved_overrides(["run.evaluate=completed", "run.meta_batch_size=9"])
    assert arguments[-2:] == ["run.evaluate=completed", "run.meta_batch_size=9"]
    assert "run.meta_batch_size=4" not in arguments


def test_a_resumed_multirun_keeps_its_folder_and_may_change_its_launcher(old):
    arguments = with_saved_overrides(["sweep.resume=sweep", "hydra/launcher=fused"])
    assert arguments[0] == "--multirun" and arguments[-1] == "hydra.sweep.dir='sweep'"
    assert "hydra/launcher=fused" in arguments and "seed=0,1" in arguments and "scheduler=step" in arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run.resume=nowhere"], ["nowhere is no run's folder"]),
        (["sweep.resume=nowhere"], ["nowhere is no multirun's folder"]),
        (["run.resume=interrupted", "seed=1"], ["seed=1 contradicts the run in interrupted", "seed=0"]),
        (["run.resume=interrupted", "algo=maml"], ["algo=maml contradicts", "algo=mtnet"]),
        (["run.resume=interrupted", "run.meta_batch_size=5"], ["contradicts", "run.meta_batch_size=4"]),
        (["sweep.resume=sweep", "seed=0,1,2"], ["seed=0,1,2 contradicts the multirun", "seed=0,1"]),
        (["-m", "run.resume=interrupted"], ["multirun", "sweep.resume can"]),
        (["hydra.run.dir=completed"], ["holds a run already", "run.resume=completed"]),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, words, old):
    with pytest.raises(HydraException) as error:
        with_saved_overrides(arguments)
    assert all(word in str(error.value) for word in words)
