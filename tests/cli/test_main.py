"""The command line: what it offers, and how it refuses what makes no sense."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import commands
import pytest
from commands import SMALL, metarun
from hydra import compose, initialize_config_dir

from metarun.cli.help import help_text, listed
from metarun.experiment.choices import CONF, GROUPS
from metarun.run_folder import read_result


def test_help_lists_the_choices_of_every_group(tmp_path):
    outcome = metarun("--help", folder=tmp_path)
    assert outcome.status == 0
    for group in GROUPS:
        line = re.search(rf"^  {group} +(.+(?:\n {{10,}}.+)*)", outcome.out, re.M)
        assert line, group
        words = line.group(1).replace("/... (", "/...(").split()
        assert set(words) >= {entry.replace(" ", "") for entry in listed(group)}, group
    assert "learn2learn/maml" in outcome.out
    assert not list(tmp_path.iterdir())


def test_many_choices_of_one_folder_are_one_entry(monkeypatch):
    monkeypatch.setattr(
        "metarun.cli.main.names", lambda group: ["maml", "l2l/maml", "l2l/anil", "p/t/1", "p/t/2", "p/u/1"]
    )
    assert listed("experiment") == ["maml", "l2l/maml", "l2l/anil", "p/t/... (2)", "p/u/1"]


def test_the_examples_in_the_help_compose():
    examples = re.findall(r"^  metarun ((?:-m )?[a-z]\S*=.*?)(?:  .*)?$", help_text(), re.M)
    assert len(examples) == 5
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for example in examples:
            words = [word for word in example.split() if "=" in word]
            for choice in range(max(word.count(",") for word in words) + 1):
                compose("config", [pick(word, choice) for word in words])


def pick(word: str, choice: int) -> str:
    """One of a sweep's values."""
    key, _, values = word.partition("=")
    return f"{key}={values.split(',')[choice % len(values.split(','))]}"


TYPOS = {
    "a choice": ("algo=mamml", ["algo=mamml", "did you mean maml?", "learn2learn/maml", "scratch"]),
    "a nested choice": ("algo=learn2learn/mamml", ["learn2learn/mamml", "learn2learn/maml"]),
    "another group's choice": ("data=omniglott", ["data=omniglott", "did you mean omniglot?", "sinusoid_varied"]),
    "a scheduler": ("scheduler=cosin", ["scheduler=cosin", "did you mean cosine?", "one_cycle"]),
    "an old key": ("optimizer.schedule=cosine", ["optimizer.schedule is called scheduler now"]),
    "another old key": ("optimizer.halve_every=5", ["optimizer.halve_every is called scheduler.step_size now"]),
    "an old choice": ("scheduler=halve", ["scheduler=halve is called scheduler=step now"]),
    "a key": ("algo.inner_lrr=1", ["algo.inner_lrr", "algo.inner_lr", "algo.inner_steps"]),
    "a group": ("optimiser=adam", ["optimiser", "optimizer"]),
    "a key of the run": ("run.iteration=5", ["run.iteration", "run.iterations"]),
    "no assignment": ("maml", ["maml"]),
}
BAD_VALUES = {
    "zero iterations": (["run.iterations=0"], ["run.iterations", "at least 1", "got 0"]),
    "a word for a number": (["run.iterations=abc"], ["run.iterations", "whole number", "'abc'"]),
    "half a task": (["run.meta_batch_size=2.5"], ["run.meta_batch_size", "2.5"]),
    "keep": (["run.test_weights=first"], ["run.test_weights", "best or last", "'first'"]),
    "seed": (["seed=x"], ["seed", "whole number", "'x'"]),
    "step size": (["scheduler=step"], ["scheduler.step_size must be an integer of at least 1; got None"]),
    "negative rate": (["optimizer.lr=-1"], ["optimizer.lr", "above 0", "-1"]),
    "init": (["backbone.init=foo"], ["init", "truncated_normal", "'foo'"]),
    "compile": (["device.compile=maybe"], ["device.compile", "auto", "'maybe'"]),
    "precision": (["device.precision=bfloat8"], ["device.precision", "float64", "'bfloat8'"]),
    "tracker": (["tracker=wandb", "tracker.wandb.mode=of"], ["tracker.wandb.mode", "offline", "'of'"]),
    "train ways": (
        ["data=synthetic", "algo=maml", "data.train_ways=10"],
        ["data.train_ways", "data.ways=5", "got 10"],
    ),
    "a drop rate for a learner that draws no masks": (
        ["data=synthetic", "algo=maml", "backbone=resnet12", "backbone.drop_rate=0.1"],
        ["backbone.drop_rate", "algo=maml"],
    ),
    "a random change that there is not": (
        ["data=miniimagenet", "algo=protonet", "data.augment=[crop,turn]"],
        ["data.augment", "crop, flip, jitter", "'turn'"],
    ),
    "training shots": (["data=synthetic", "algo=protonet", "data.train_shots=[5,1]"], ["data.train_shots", "[5, 1]"]),
    "an added key": (["+algo.foo=1"], ["foo"]),
    "a pair": (
        ["algo=joint", "data=omniglot"],
        ["algo=joint", "data=omniglot", "regression", "It runs on", "sinusoid_varied"],
    ),
    "missing data": (["data=omniglot", "data.root=/empty"], ["/empty", "download", "data.root"]),
    "no run to resume": (["run.resume=nowhere"], ["nowhere", "no run"]),
    "no run to evaluate": (["run.evaluate=nowhere"], ["nowhere", "no run"]),
    "no run to start from": (["run.init_from=nowhere"], ["nowhere"]),
}


def refused(outcome: commands.Outcome, wanted: list[str], folder: Path) -> None:
    """It exits 2, says once what is wrong, without a traceback, and leaves nothing behind."""
    assert outcome.status == 2
    assert outcome.err.startswith("metarun: ")
    assert outcome.err.count("metarun: ") == 1
    assert "Traceback" not in outcome.err
    for word in wanted:
        assert word in outcome.err
    assert not list(folder.iterdir())


@pytest.mark.parametrize(("argument", "wanted"), TYPOS.values(), ids=TYPOS)
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "multirun"])
def test_a_typo_is_refused_with_what_there_is(argument, wanted, flags, tmp_path):
    refused(metarun(*flags, argument, folder=tmp_path), wanted, tmp_path)


@pytest.mark.parametrize(("arguments", "wanted"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_bad_value_is_refused_by_name(arguments, wanted, tmp_path):
    refused(metarun("tracker=none", *arguments, folder=tmp_path), wanted, tmp_path)


@pytest.mark.parametrize("name", ["zero iterations", "a pair", "missing data"])
def test_a_bad_value_is_refused_in_a_multirun_of_one_cell(name, tmp_path):
    arguments, wanted = BAD_VALUES[name]
    refused(metarun("-m", "tracker=none", *arguments, folder=tmp_path), wanted, tmp_path)


def test_a_typo_in_one_cell_stops_the_multirun_before_any_cell_starts(tmp_path):
    refused(metarun("-m", "algo=maml,mamml", folder=tmp_path), ["algo=mamml", "did you mean maml?"], tmp_path)


def test_a_multirun_goes_on_past_a_refused_cell_and_exits_1(tmp_path):
    sizes = [word for word in SMALL if not word.startswith("run.iterations")]
    outcome = metarun("-m", *sizes, "run.iterations=0,3", "hydra.sweep.dir=sweep", folder=tmp_path)
    assert outcome.status == 1
    assert "run.iterations must be" in outcome.err
    found = {path.name: read_result(path) for path in (tmp_path / "sweep").glob("iterations*")}
    assert {name: result["status"] for name, result in found.items()} == {
        "iterations=0": "failed",
        "iterations=3": "completed",
    }
    assert "run.iterations must be" in found["iterations=0"]["error"]


def test_a_diverged_cell_does_not_end_a_multirun_which_exits_3(tmp_path):
    grid = ["-m", *SMALL, "algo.inner_lr=1e20,0.01", "hydra.sweep.dir=sweep"]
    assert metarun(*grid, folder=tmp_path).status == 3
    found = {
        path.parent.name: read_result(path.parent)["status"] for path in (tmp_path / "sweep").glob("*/result.json")
    }
    assert found == {"inner_lr=1e+20": "diverged", "inner_lr=0.01": "completed"}


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path):
    commands.small(folder=tmp_path)
    before = (tmp_path / "run" / ".hydra" / "config.yaml").read_text()
    outcome = metarun(*SMALL, "seed=1", "hydra.run.dir=run", folder=tmp_path)
    assert outcome.status == 2
    assert "run.resume=run" in outcome.err
    assert (tmp_path / "run" / ".hydra" / "config.yaml").read_text() == before


@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "multirun"])
def test_the_job_is_called_metarun(flags, tmp_path):
    assert metarun(*flags, *SMALL, "run.iterations=1", folder=tmp_path).status == 0
    written = [path.read_text() for path in tmp_path.rglob("hydra.yaml")]
    assert len(written) == 1
    assert re.search(r"^  job:\n    name: metarun$", written[0], re.M)


def test_cfg_prints_the_configuration_and_runs_nothing(tmp_path):
    outcome = metarun("data=omniglot", "algo=maml", "--cfg", "job", folder=tmp_path)
    assert outcome.status == 0
    assert "_target_: metarun.algos.maml.MAML" in outcome.out
    assert "inner_lr: 0.4" in outcome.out  # of the setting
    assert not list(tmp_path.iterdir())


def test_info_tells_what_was_composed_from_which_file(tmp_path):
    outcome = metarun("data=omniglot", "--info", "defaults", folder=tmp_path)
    assert outcome.status == 0
    assert "setting/omniglot/maml" in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("metarun algo=ma", ["algo=maml"]),
        ("metarun data=sin", ["data=sinusoid", "data=sinusoid_varied"]),
        ("metarun algo.inner_", ["algo.inner_lr=", "algo.inner_steps="]),
    ],
)
def test_the_shell_completes_choices_and_keys(line, wanted, tmp_path, monkeypatch):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    outcome = metarun("-sc", "query=bash", folder=tmp_path)
    assert set(wanted) <= set(outcome.out.split())


def test_shell_completion_installs_for_the_command_metarun(tmp_path):
    assert "complete" in metarun("-sc", "install=bash", folder=tmp_path).out


def test_the_console_script_exits_2_in_a_real_process_and_answers_fast(tmp_path):
    script = Path(sys.executable).parent / "metarun"
    ended = subprocess.run([script, "algo=mamml"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "did you mean maml?" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_help_does_not_wait_for_torch(tmp_path):
    program = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from metarun.cli.main import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(commands.ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
