"""Replicas that are evaluated together score what each scores alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import toy
from replica_toys import (
    LEARNERS,
    MICRO_BATCHES,
    SGD,
    Pictures,
    assert_same_learner,
    begin,
    image_replicas,
    meta_optimizer,
    mtnet,
    together,
)
from torch.utils import _pytree as pytree

from metarun.evaluation.evaluate import evaluate, evaluate_batch
from metarun.fused.evaluate import diagnostics, evaluate_replicas, score_replicas
from metarun.fused.loop import fit_together
from metarun.fused.replicas import Replicas
from metarun.training.loop import fit


def test_each_may_draw_from_its_own_data():
    how, low, high = meta_optimizer(), toy.sinusoid(), toy.sinusoid(amplitude=(10.0, 20.0))
    order = [high, low, toy.sinusoid(phase=(0.0, 0.1)), high]
    runs = [begin(mtnet(seed), how, seed) for seed in range(4)]
    replicas = Replicas(runs, order, how)
    for _ in fit_together(replicas, 10, 3):
        pass
    scores = evaluate_replicas(replicas, "test", 20, 2)
    for seed, (training, data) in enumerate(zip(runs, order, strict=True)):
        own = begin(mtnet(seed), how, seed)
        for _ in fit(own, data, how, 10, 3):
            pass
        assert_same_learner(training.learner, own.learner)
        expected = evaluate(own.learner, data, "test", 20, 2)
        assert scores[seed].episodes == expected.episodes
        np.testing.assert_allclose(scores[seed].values["mse"], expected.values["mse"], rtol=1e-9)


def test_scores_are_those_of_each_alone():
    how, data = meta_optimizer(), toy.sinusoid()
    replicas = together(how)
    list(fit_together(replicas, 5, 3))
    scores = evaluate_replicas(replicas, "val", 30, 4)
    assert list(scores) == [0, 1, 2]
    for training, ours in zip(replicas.trainings, scores.values(), strict=True):
        theirs = evaluate(training.learner, data, "val", 30, 4)
        np.testing.assert_allclose(ours.values["mse"], theirs.values["mse"], rtol=1e-9)
        assert (ours.episodes, ours.step) == (theirs.episodes, theirs.step)
    assert replicas.trainings[0].learner.training


def test_what_each_tells_of_itself():
    replicas = together(meta_optimizer())
    list(fit_together(replicas, 3, 3))
    told = diagnostics(replicas)
    for r, training in enumerate(replicas.trainings):
        for name, value in training.learner.diagnostics().items():
            torch.testing.assert_close(told[name][r], value.detach())


@pytest.mark.parametrize(("size", "micro_batch"), MICRO_BATCHES)
@pytest.mark.parametrize("kind", ["maml", "protonet, running statistics"])
def test_scores_in_micro_batches_are_those_of_each_alone(kind, size, micro_batch):
    replicas = image_replicas(LEARNERS[kind], meta_optimizer(SGD, 0.05), size)
    *_, last = fit_together(replicas, 3, 3)
    ours = evaluate_replicas(replicas, "val", 5, 2, task_micro_batch=micro_batch)
    own_tasks = score_replicas(replicas, [0, 2], last.batch, last.random_inputs, 1, False, micro_batch)
    assert list(own_tasks) == [0, 2]
    for r, training in enumerate(replicas.trainings):
        theirs = evaluate(training.learner, Pictures(), "val", 5, 2)
        for name, values in theirs.values.items():
            np.testing.assert_allclose(ours[r].values[name], values, rtol=1e-9, err_msg=name)
        if r in own_tasks:
            batch = pytree.tree_map(lambda leaf, r=r: leaf[r], last.batch)
            training.learner.eval()
            expected = evaluate_batch(training.learner, "classification", batch, (), 1, curve=False)
            np.testing.assert_allclose(own_tasks[r]["nll"], expected["nll"], rtol=1e-9)
