"""Names of earlier versions: refused with the new one on a command line, translated in saved runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from commands import SMALL, metarun
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from metarun import old_names
from metarun.experiment.build import build
from metarun.experiment.choices import CONF, names
from metarun.old_names import SCHEDULES, TORCH_SCHEDULERS, new_config, new_override, new_overrides
from metarun.run_folder import load_yaml
from metarun.training.loop import TrainState, fit

SAVED = Path(__file__).parent / "fixtures" / "halve_a5b50f1.yaml"
CHOICES = {"algo": "maml", "data": "sinusoid", "backbone": "mlp"}
PAGE = (Path(__file__).parents[1] / "docs" / "old_names.md").read_text()
# A value for each that another version took.
ARGUMENTS = {
    **{key: f"{key}=1" for key in old_names.KEYS},
    "optimizer.schedule": "optimizer.schedule=cosine",
    "optimizer.halve_every": "optimizer.halve_every=100",
}


@pytest.mark.parametrize("key", ARGUMENTS)
def test_an_old_key_is_answered_by_its_new_name(key, tmp_path):
    data = ["data=synthetic", "algo=pretrain"] if key.startswith(("data.", "algo.")) else []
    launcher = ["-m", "hydra/launcher=fused", "seed=0,1"] if key.startswith("hydra.") else []
    outcome = metarun(*launcher, *data, ARGUMENTS[key], folder=tmp_path)
    assert outcome.status == 2
    assert f"{key} is called {old_names.renamed_key(key)} now" in outcome.err
    assert not list(tmp_path.iterdir())


def test_an_old_choice_is_answered_by_its_new_name(tmp_path):
    outcome = metarun("algo=hand_optimizer", "data=quadratics", folder=tmp_path)
    assert (outcome.status, outcome.err) == (2, "metarun: algo=hand_optimizer is called algo=tuned_optimizer now\n")


def test_an_old_class_path_is_answered_by_its_new_place(tmp_path):
    outcome = metarun(*SMALL, "algo._target_=metarun.algos.scratch.Scratch", folder=tmp_path)
    assert outcome.status == 2
    assert "algo._target_=metarun.algos.scratch.Scratch has moved" in outcome.err
    assert "metarun.algos.baselines.scratch.Scratch" in outcome.err


@pytest.mark.parametrize("key", [*old_names.KEYS, *old_names.SCHEDULER_KEYS])
def test_the_page_lists_every_old_key(key):
    assert f"`{key}" in PAGE or f"`{key.rpartition('.')[2]}`" in PAGE


OLD_CLASSES = [
    "metarun.algos.scratch.Scratch",
    "metarun.algos.joint.Joint",
    "metarun.algos.oracle.Oracle",
    "metarun.algos.nearest_centroid.NearestCentroid",
    "metarun.algos.hand_optimizer.HandOptimizer",
    "metarun.algos.learn2learn.Learn2LearnMAML",
    "metarun.algos.learn2learn_protonet.Learn2LearnProtoNet",
    "metarun.algos.learn2learn_updates.Learn2LearnKFO",
    "metarun.tasks.omniglot.Omniglot",
    "metarun.tasks.sinusoid.Sinusoid",
    "metarun.tasks.pairs.OmniglotPairs",
    "metarun.loop.OuterOptimizer",
    "metarun.backbones.conv4.Conv4",
    "metarun.algos.maml.MAML",
]


@pytest.mark.parametrize("path", OLD_CLASSES)
def test_a_class_of_an_earlier_version_is_found(path):
    new = old_names.new_class_path(path)
    assert get_class(new).__name__ == old_names.CLASSES.get(path.rpartition(".")[2], path.rpartition(".")[2])
    assert old_names.new_class_path(new) == new


def test_a_new_configuration_comes_back_as_it_is():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for overrides in (["algo=pretrain", "data=omniglot"], ["scheduler=step", "tracker=none"]):
            config = OmegaConf.to_container(compose("config", overrides))
            assert old_names.new_config(OmegaConf.to_container(compose("config", overrides))) == config


def test_saved_overrides_are_translated():
    before = ["run.meta_batch=4", "+optimizer.clip=1", "optimizer.schedule=halve", "optimizer.halve_every=10", "seed=1"]
    assert old_names.new_overrides([*before, "algo=hand_optimizer", "optimizer.halve_every=null"]) == [
        *("run.meta_batch_size=4", "+optimizer.max_grad_norm=1", "scheduler=step", "scheduler.step_size=10", "seed=1"),
        "algo=tuned_optimizer",
    ]


def test_a_result_of_an_earlier_version_has_the_new_fields():
    old = {"algo": "hand_optimizer", "split": "maml", "merged": 2, "overrides": ["data.split=maml"], "mean": 0.5}
    new = {"algo": "tuned_optimizer", "partition": "maml", "classes_per_way": 2, "overrides": ["data.partition=maml"]}
    assert old_names.new_result(old) == {**new, "mean": 0.5}
    assert old_names.new_result({"format": 1, "split": "x"}) == {"format": 1, "split": "x"}


@pytest.mark.parametrize("name", TORCH_SCHEDULERS)
def test_a_saved_schedule_becomes_what_its_file_composes(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [f"scheduler={name}"])
    assert OmegaConf.to_container(cfg.scheduler, resolve=False) == TORCH_SCHEDULERS[name]


def test_every_old_schedule_is_a_choice():
    assert set(SCHEDULES.values()) == set(TORCH_SCHEDULERS) <= set(names("scheduler"))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_saved_configuration_gets_a_scheduler(schedule):
    every = 400 if schedule == "halve" else None
    old = {"optimizer": {"lr": 0.1, "schedule": schedule, "halve_every": every}}
    new = new_config(old)
    expected = TORCH_SCHEDULERS[SCHEDULES[schedule]] | ({"step_size": 400} if schedule == "halve" else {})
    assert new == {"optimizer": {"lr": 0.1}, "scheduler": expected}
    assert new_config(new) == new


def test_saved_schedules_in_overrides_are_translated():
    old = ["optimizer.schedule=halve", "optimizer.halve_every=400", "optimizer.lr=0.1"]
    assert new_overrides(old) == ["scheduler=step", "scheduler.step_size=400", "optimizer.lr=0.1"]
    assert new_overrides(["optimizer.schedule=cosine", "optimizer.halve_every=null"]) == ["scheduler=cosine"]
    assert new_override("optimizer.schedule=cosine,halve") == "scheduler=cosine,step"


def test_a_run_saved_with_halving_resumes_at_the_same_rate():
    """From iteration 1199, at a fourth of the initial rate; the next one is the third halving's."""
    parts = build(OmegaConf.create(new_config(load_yaml(SAVED.read_text()))), CHOICES)
    factors = [parts.meta_optimizer.factor(i) for i in range(3000)]
    assert factors == [0.5 ** (i // 400) for i in range(3000)]

    training = TrainState.create(parts.learner, parts.meta_optimizer, torch.device("cpu"), 0)
    state = training.state_dict()
    # As earlier versions saved it: the rate of the last step, beside the initial one.
    state["iteration"] = 1199
    state["optimizers"]["meta"]["param_groups"][0] |= {"lr": 0.001 * 0.5**2, "initial_lr": 0.001}
    training.load_state_dict(state)
    steps = fit(training, parts.data, parts.meta_optimizer, 3000, 2)
    rates = [
        (step.iteration, training.optimizers["meta"].param_groups[0]["lr"])
        for step, _ in zip(steps, "ab", strict=False)
    ]
    assert rates == [(1200, 0.001 * 0.5**2), (1201, 0.001 * 0.5**3)]


def test_an_old_schedule_is_a_choice_of_today():
    saved = {"algo": "hand_optimizer"}
    config = {"optimizer": {"schedule": "halve"}}
    assert old_names.new_choices(saved, config) == {"algo": "tuned_optimizer", "scheduler": "step"}
    assert old_names.new_choices({"scheduler": "cosine"}, config) == {"scheduler": "cosine"}
    assert old_names.new_choices(saved) == {"algo": "tuned_optimizer"}
