"""What a command that names a run or a multirun is composed of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from runs import write_run

from metarun.cli.command import Command
from metarun.cli.resume import prepared
from metarun.experiment.choices import own_folders
from metarun.experiment.overrides import UsageError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "format_0"


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """A folder with runs of an earlier version, as the current one."""
    shutil.copytree(FIXTURES, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


@pytest.fixture
def own(old) -> Path:
    """A folder of the user's own experiments."""
    (old / "own" / "experiment").mkdir(parents=True)
    yield old / "own" / "experiment"
    own_folders.name()


def ready(*arguments: str) -> Command:
    return prepared(Command.parse(arguments))


def test_other_commands_pass_through():
    assert ready("algo=maml", "seed=1").lines == ["algo=maml", "seed=1"]
    assert not ready("algo=maml", "seed=1").flags.multirun


@pytest.mark.parametrize(
    "arguments",
    [["sweep=seeds"], ["++sweep=seeds"], ["++sweep.seed=[1]"], ["algo=maml", "-m"], ["hydra.mode=MULTIRUN"]],
)
def test_a_multirun_is_asked_for_by_flag_or_by_configuration(arguments):
    assert ready(*arguments).flags.multirun


def test_what_is_only_printed_is_the_first_cells():
    command = ready("-m", "seed=3,4", "--cfg", "job")
    assert (command.flags.multirun, command.lines) == (False, ["seed=3"])
    assert ready("sweep=seeds", "--cfg", "job").lines == ["sweep=seeds"]


@pytest.mark.parametrize(
    "argument", ["run.resume=interrupted", "++run.resume='interrupted'", "+run.resume=./interrupted/"]
)
def test_a_resumed_run_composes_nothing_of_its_folder(argument, old):
    command = ready(argument, "seed=0", "scheduler=step", "run.meta_batch_size=4", "hydra.verbose=true")
    assert command.lines == [
        "hydra.verbose=true",
        "run.resume='interrupted'",
        "hydra.run.dir='interrupted'",
        "hydra.output_subdir=null",
    ]


def test_its_configuration_is_printed_as_it_was_saved(old):
    config = ready("run.resume=interrupted", "--cfg", "job").compose()
    assert (config.algo.inner_lr, config.run.meta_batch_size, config.scheduler.step_size) == (0.01, 4, 200)
    assert config.algo._target_ == "metarun.algos.mtnet.MTNet"


def test_a_run_is_made_longer_unless_its_schedule_would_be_another(old):
    assert "run.iterations=700" in ready("run.resume=interrupted", "run.iterations=700").lines
    file = old / "interrupted" / ".hydra" / "config.yaml"
    file.write_text(file.read_text().replace("schedule: halve", "schedule: cosine"))
    with pytest.raises(UsageError, match="would change scheduler.T_max"):
        ready("run.resume=interrupted", "run.iterations=700")


def test_data_may_have_moved(old):
    file = old / "interrupted" / ".hydra" / "config.yaml"
    file.write_text(file.read_text().replace("\ndata:\n", "\ndata:\n  root: /gone\n"))
    assert "++data.root='/new place'" in ready("run.resume=interrupted", "data.root=/new place").lines


@pytest.mark.parametrize("argument", ["run.evaluate=completed", "++run.evaluate='completed'"])
def test_a_run_that_is_tested_again_has_its_own_numbers_but_for_what_is_said(argument, old):
    config = ready(argument, "run.meta_batch_size=9", "tracker=none").compose()
    saved = yaml.safe_load((old / "completed" / ".hydra" / "config.yaml").read_text())
    assert config.run.meta_batch_size == 9
    assert config.run.eval_tasks == saved["run"]["eval_tasks"] == 20
    assert config.backbone.hidden == saved["backbone"]["hidden"]
    assert config.hydra.runtime.choices.algo == "mtnet" and config.run.evaluate == "completed"


def test_on_other_data_it_keeps_the_learner_and_drops_the_old_datas_keys_and_published_figures(old):
    folder = write_run(Path("digits"), data="digits", config={"algo": {"inner_lr": 0.03}, "paper": [{"value": 1}]})
    hydra = (FIXTURES / "completed" / ".hydra" / "hydra.yaml").read_text()
    hydra = hydra.replace("algo: mtnet", "algo: maml").replace("data: sinusoid", "data: digits")
    (folder / ".hydra" / "hydra.yaml").write_text(hydra)
    config = ready("run.evaluate=digits", "data=synthetic", "data.ways=3").compose()
    assert config.algo.inner_lr == 0.03  # the setting of maml on synthetic has another
    assert (config.data.ways, config.data.shots, config.paper) == (3, 1, [])


def test_it_keeps_its_algorithm(old):
    with pytest.raises(UsageError, match="algo=protonet contradicts run.evaluate=completed.* algo=mtnet"):
        ready("run.evaluate=completed", "algo=protonet")


def test_a_resumed_multirun_keeps_its_folder_and_may_change_its_launcher(old):
    command = ready("sweep.resume=sweep", "hydra/launcher=fused")
    assert command.flags.multirun and command.lines[-1] == "hydra.sweep.dir='sweep'"
    assert "hydra/launcher=fused" in command.lines and "seed=0,1" in command.lines and "scheduler=step" in command.lines


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("run:\n  evaluate: completed\n", None),
        ("run:\n  resume: completed\n", "run.resume is set by a file"),
        ("sweep:\n  resume: sweep\n", "sweep.resume is set by a file"),
        ("hydra:\n  run:\n    dir: completed\n", "hydra.run.dir=completed holds a run"),
        ("run:\n  init_from: ''\n", "run.init_from must be the folder of a run; got ''"),
        ("sweep:\n  seed: [1, 2]\n", None),
    ],
)
def test_what_an_experiment_file_says_counts_as_well(content, words, own):
    (own / "mine.yaml").write_text(f"# @package _global_\n{content}")
    if words:
        with pytest.raises(UsageError, match=words):
            ready("experiment=mine", "--config-dir=own")
    elif "evaluate" in content:
        assert "algo='mtnet'" in ready("experiment=mine", "--config-dir=own").lines
    else:
        assert ready("experiment=mine", "--config-dir=own").flags.multirun


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run.resume=nowhere"], ["nowhere is no run's folder"]),
        (["sweep.resume=nowhere"], ["nowhere is no multirun's folder"]),
        (["run.resume=interrupted", "seed=1"], ["seed=1 contradicts the run in interrupted", "seed=0"]),
        (["run.resume=interrupted", "++seed=1"], ["seed=1 contradicts the run in interrupted", "seed=0"]),
        (["run.resume=interrupted", "~seed"], ["~seed contradicts"]),
        (["run.resume=interrupted", "algo=maml"], ["algo=maml contradicts", "algo=mtnet"]),
        (["run.resume=interrupted", "scheduler=cosine"], ["scheduler=cosine contradicts", "scheduler=step"]),
        (["run.resume=interrupted", "run.meta_batch_size=5"], ["contradicts", "run.meta_batch_size=4"]),
        (["run.resume=interrupted", "run.iterations=599"], ["contradicts", "600", "more iterations are possible"]),
        (["run.resume=interrupted", "data.root=/x"], ["data.root='/x' contradicts"]),
        (["run.resume=interrupted", "hydra.callbacks.x=1"], ["hydra.callbacks.x=1 contradicts"]),
        (["run.resume=interrupted", "seed=0,1"], ["seed=0,1 is a sweep"]),
        (["sweep.resume=sweep", "seed=0,1,2"], ["seed=0,1,2 contradicts the multirun", "seed=0,1"]),
        (["sweep.resume=sweep", "++seed=0,2"], ["contradicts the multirun"]),
        (["-m", "run.resume=interrupted"], ["multirun", "sweep.resume can"]),
        (["-m", "run.evaluate=completed,interrupted"], ["run.evaluate must be the folder of one run"]),
        (["hydra.run.dir=completed"], ["holds a run already", "run.resume=completed"]),
        (["hydra.run.dir='completed'"], ["holds a run already"]),
        (["++hydra.run.dir=completed"], ["holds a run already"]),
        (["hydra.run.dir=${oc.env:WHERE}"], ["hydra.run.dir=completed holds a run already"]),
        (["run.resume="], ["run.resume must be the folder of a run; got ''"]),
        (["run.evaluate=''"], ["run.evaluate must be the folder of a run; got ''"]),
        (["run.init_from="], ["run.init_from must be the folder of a run; got ''"]),
        (["sweep.resume="], ["sweep.resume must be the folder of a multirun; got ''"]),
        (["seed=0,1"], ["seed=0,1 are several values", "-m"]),
        (["-m", "seed=range(0)"], ["must be at least one value"]),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, words, old, monkeypatch):
    monkeypatch.setenv("WHERE", "completed")
    with pytest.raises(UsageError) as error:
        ready(*arguments)
    assert all(word in str(error.value) for word in words)


def test_a_choice_of_an_own_folder_is_asked_for_again(old):
    hydra = old / "completed" / ".hydra" / "hydra.yaml"
    text = hydra.read_text().replace("algo: mtnet", "algo: mine").replace("provider: main", "provider: command-line")
    hydra.write_text(text)
    with pytest.raises(
        UsageError, match=r"algo='mine', which is not there. It was started with --config-dir=/old/metarun/conf"
    ):
        ready("run.evaluate=completed")
