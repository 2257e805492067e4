"""Outer steps of replicas are those of separate trainings."""

from __future__ import annotations

import pytest
import torch
import toy
from replica_toys import (
    COMPILED,
    LEARNERS,
    MICRO_BATCHES,
    OPTIMIZERS,
    SGD,
    alone,
    assert_same_learner,
    begin,
    image_replicas,
    images_alone,
    meta_optimizer,
    mtnet,
    together,
)

from metarun.fused.loop import fit_together
from metarun.fused.replicas import Replicas


@pytest.mark.parametrize(("kind", "micro_batch"), [*((kind, None) for kind in OPTIMIZERS), ("adam, clipped", 2)])
def test_twenty_outer_steps_are_those_of_separate_runs(kind, micro_batch):
    how = meta_optimizer(**OPTIMIZERS[kind])
    replicas = together(how)
    losses = [[s.loss(r) for r in range(3)] for s in fit_together(replicas, 20, 3, micro_batch)]
    for r, (training, expected) in enumerate(alone(how)):
        assert [row[r] for row in losses] == pytest.approx(expected, rel=1e-11)
        assert_same_learner(replicas.trainings[r].learner, training.learner)
        assert replicas.trainings[r].iteration == training.iteration == 20
    # and they are three different runs, which the clipping did touch
    assert len({round(row, 6) for row in losses[-1]}) == 3


def test_when_all_have_diverged_it_ends():
    how = meta_optimizer()
    replicas = Replicas([begin(mtnet(s, 1e200), how, s) for s in (0, 1)], [toy.sinusoid()] * 2, how)
    assert len(list(fit_together(replicas, 50, 3))) < 50
    assert not replicas.active


@pytest.mark.slow
@pytest.mark.parametrize("kind", COMPILED)
def test_compiled_is_eager(kind):
    torch._dynamo.reset()
    how = meta_optimizer(torch.optim.SGD)

    def fresh() -> Replicas:
        runs = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            runs.append(begin(COMPILED[kind](0.05 + seed / 10).double(), how, seed))
        return Replicas(runs, [toy.sinusoid()] * 2, how)

    eager, compiled = fresh(), fresh()
    list(fit_together(eager, 4, 3))
    list(fit_together(compiled, 4, 3, compiled=True))
    for a, b in zip(eager.trainings, compiled.trainings, strict=True):
        assert_same_learner(a.learner, b.learner, 1e-9)


@pytest.mark.parametrize(("size", "micro_batch"), MICRO_BATCHES)
@pytest.mark.parametrize("kind", LEARNERS)
def test_networks_with_convolutions_are_those_of_separate_runs_in_micro_batches_or_whole(kind, size, micro_batch):
    replicas = image_replicas(LEARNERS[kind], meta_optimizer(SGD, 0.05, max_grad_norm=0.2), size)
    losses = [[s.loss(r) for r in range(3)] for s in fit_together(replicas, 6, 3, micro_batch)]
    for r, (training, expected) in enumerate(images_alone(kind)):
        assert [row[r] for row in losses] == pytest.approx(expected, rel=1e-12)
        assert_same_learner(replicas.trainings[r].learner, training.learner, 1e-12)
    assert len({round(row, 6) for row in losses[-1]}) == 3
