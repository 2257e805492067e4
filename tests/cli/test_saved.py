"""What a command takes from a folder that somebody else may have written."""

from __future__ import annotations

from pathlib import Path

import pytest

from metarun.cli.saved import checked, choice_lines, difference_lines
from metarun.experiment.overrides import UsageError, read

FILE = Path("sweep/multirun.yaml")
HARMLESS = [
    "algo=maml,mtnet",
    "+algo.inner_lr=0.1",
    "~tracker.wandb",
    "data.root='/a b'",
    "setting=omniglot/maml",
    "seed=range(0,3)",
    "hydra/launcher=joblib",
    "hydra.launcher.n_jobs=2",
    "hydra.launcher.partition=gpu-long",
    "hydra/sweeper=optuna",
    "hydra.sweeper.storage=sqlite:///a.db",
    "hydra.sweep.subdir=${hydra.job.num}",
    "hydra.sweep.subdir=${hydra:runtime.choices.algo}_${now:%H}",
    "algo.eval_steps=${algo.inner_steps}",
    "hydra.mode=MULTIRUN",
]
HARMFUL = [
    "--experimental-rerun=evil.pickle",
    "-m",
    "hydra.callbacks.x._target_=os.system",
    "+hydra.callbacks.x._target_=os.system",
    "++hydra.callbacks={x:{_target_:os.system}}",
    "hydra={callbacks:{}}",
    "hydra.searchpath=[pkg://evil]",
    "hydra/launcher=ray_aws",
    "hydra/sweeper=mine",
    "hydra/job_logging=evil",
    "hydra.launcher._target_=os.system",
    "hydra.launcher.setup=[rm]",
    "hydra.launcher.pre_dispatch=evil()",
    "hydra.launcher.partition='a\nrm -r x'",
    "hydra.launcher={_target_:os.system}",
    "hydra.sweeper.params={seed:1}",
    "hydra.job.env_set.PYTHONPATH=/evil",
    "hydra.output_subdir=x",
    "data.root=${oc.env:HOME}",
    "hydra.sweep.subdir=${oc.env:HOME}",
    "hydra.sweep.subdir=${o${seed}c.env:HOME}",
    "unknown.key=1",
    "algo=a=b",
    "",
    7,
    None,
    ["algo=maml"],
]


@pytest.mark.parametrize("line", HARMLESS)
def test_settings_of_known_keys_are_taken(line):
    assert checked([line], FILE, []) == [read(line).input_line]


@pytest.mark.parametrize("line", HARMFUL, ids=repr)
def test_everything_else_is_refused_by_name(line):
    with pytest.raises(UsageError, match="sweep/multirun.yaml holds "):
        checked([line], FILE, [])


def test_what_is_typed_again_is_the_users_own():
    line = "hydra.searchpath=[pkg://mine]"
    assert checked([line, "seed=1"], FILE, [read(line)]) == ["seed=1"]


def test_choices_but_for_those_of_the_command():
    choices = {"algo": "learn2learn/maml", "data": "sinusoid", "tracker": "None", "experiment": "x", "hydra/env": "y"}
    assert choice_lines(choices, {"data"}) == ["algo='learn2learn/maml'"]


def test_what_a_saved_configuration_says_otherwise():
    config = {"algo": {"inner_lr": 0.1, "steps": "${run.x}", "same": 1}, "run": {"resume": "x"}, "data": {"ways": 5}}
    composed = {"algo": {"inner_lr": 0.2, "same": 1}, "run": {"resume": None}}
    lines = list(difference_lines(config, composed, ("algo", "run"), FILE))
    assert lines == ["++algo.inner_lr=0.1", "++algo.steps='${run.x}'"]
    with pytest.raises(UsageError, match="multirun.yaml has a key that cannot be one"):
        list(difference_lines({"algo": {"a=b hydra.x": 1}}, {}, ("algo",), FILE))
