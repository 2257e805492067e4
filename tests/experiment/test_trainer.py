"""The training of one run, between two steps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import toy

from metarun.experiment.trainer import Trainer
from metarun.training.loop import Step


def experiment(learner, data):
    """As much of a run as logging looks at."""
    return SimpleNamespace(
        learner=learner, data=data, device=SimpleNamespace(task_micro_batch=None), validation=0.5, train_seconds=1.0
    )


def test_the_training_metric_is_that_of_the_steps_own_tasks():
    learner, data = toy.maml(inner_lr=0.05), toy.sinusoid()
    batch = data.sample("train", "episodes", 4, torch.Generator().manual_seed(0))
    trainer = Trainer(experiment(learner.train(), data))
    metric = trainer.train_metric(Step(1, {"all": 2.0}, batch, (), 0.1))
    learner.eval()
    errors = []
    for t in range(4):
        support, query = (type(part)(part.x[t], part.y[t]) for part in batch)
        *_, predictor = learner.trajectory(support, learner.inner_steps)
        errors.append((predictor(query.x) - query.y).square().mean().item())
    assert metric == pytest.approx(sum(errors) / 4, rel=1e-5)


def test_training_goes_on_in_training_mode_and_other_batches_have_no_metric():
    learner, data = toy.maml().train(), toy.sinusoid()
    batch = data.sample("train", "episodes", 4, torch.Generator().manual_seed(0))
    trainer = Trainer(experiment(learner, data))
    trainer.train_metric(Step(1, {"all": 2.0}, batch, (), 0.1))
    assert learner.training
    assert trainer.train_metric(Step(1, {"all": 2.0}, batch.query, (), 0.1)) is None


def test_time_and_validation_are_the_runs():
    run = experiment(toy.maml(), toy.sinusoid())
    trainer = Trainer(run)
    trainer.train_seconds = 7.0
    assert (run.train_seconds, trainer.train_seconds, trainer.validation) == (7.0, 7.0, 0.5)
    assert trainer.loss(Step(1, {"a": 1.0, "b": 2.0}, None, (), 0.1)) == 3.0
