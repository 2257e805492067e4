"""Names of earlier versions: schedules are torch's schedulers now, and a saved run keeps its rates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from metarun.experiment.build import build
from metarun.experiment.choices import CONF, names
from metarun.old_names import SCHEDULES, TORCH_SCHEDULERS, new_config, new_override, new_overrides
from metarun.run_folder import load_yaml
from metarun.training.loop import TrainState, fit

SAVED = Path(__file__).parent / "fixtures" / "halve_a5b50f1.yaml"
CHOICES = {"algo": "maml", "data": "sinusoid", "backbone": "mlp"}


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


def test_saved_overrides_are_translated():
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
