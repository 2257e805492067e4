"""How the command line refuses what makes no sense."""

from __future__ import annotations

from pathlib import Path

import commands
import pytest
from commands import SMALL, metarun

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
    "no assignment": ("maml", ["maml is no setting: write KEY=VALUE, such as algo=maml"]),
    "capitals": ("algo=MAML", ["there is no algo=MAML; did you mean maml?"]),
    "a flag": ("--algo=maml", ["there is no flag --algo=maml", "write algo=maml"]),
    "letters that the grammar does not know": ("algo.x=a;b", ["algo.x='a;b'", "^"]),
    "a lone sign": ("=", ["needs a key"]),
    "a choice twice": ("algo@x.y=maml", ["algo"]),
    "a launcher": ("hydra/launcher=jobli", ["there is no hydra/launcher=jobli"]),
    "a launcher's key": ("hydra.launcher.x=1", ["hydra.launcher.x"]),
    "an added key that is there": ("+seed=3", ["seed is there already: write it without +"]),
    "a key that is not there": ("~algo.nothing", ["algo.nothing"]),
    "a value for the settings of a run": ("++run=x", ["run must be a group of settings", "'x'"]),
    "a list of choices": ("backbone=[mlp]", ["backbone must be one choice, backbone=NAME, without brackets"]),
    "a list of trackers with an unknown one": ("tracker=[wandb,wandbb]", ["or a list of them", "got [wandb,wandbb]"]),
    "an empty list of trackers": ("tracker=[]", ["tracker must be one of", "tensorboard", "or a list of them", "[]"]),
    "a list of lists": ("tracker=[[wandb]]", ["or a list of them", "[[wandb]]"]),
    "a folder that cannot be named": ("hydra.output_subdir=${oc.env:NO_SUCH}", ["hydra.output_subdir", "NO_SUCH"]),
    "an unknown variable": ("seed=${oc.env:NO_SUCH_VARIABLE}", ["NO_SUCH_VARIABLE"]),
}
BAD_VALUES = {
    "zero iterations": (["run.iterations=0"], ["run.iterations", "at least 1", "got 0"]),
    "a word for a number": (["run.iterations=abc"], ["run.iterations", "an integer", "'abc'"]),
    "half a task": (["run.meta_batch_size=2.5"], ["run.meta_batch_size", "2.5"]),
    "keep": (["run.test_weights=first"], ["run.test_weights", "one of best, last", "'first'"]),
    "seed": (["seed=x"], ["seed", "an integer", "'x'"]),
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


def test_so_does_a_value_of_the_wrong_type_in_its_last_cell(tmp_path):
    refused(
        metarun("-m", "tracker=none", "algo.inner_lr=0.1,0.2,x", folder=tmp_path),
        ["algo.inner_lr must be a number of at least 0; got 'x'"],
        tmp_path,
    )


def test_what_cells_are_refused_for_is_said_once(tmp_path):
    outcome = metarun("-m", *SMALL, "algo=gnn", "seed=0,1", folder=tmp_path)
    assert (outcome.status, outcome.err.count("algo=gnn cannot run on data=sinusoid")) == (2, 1)
