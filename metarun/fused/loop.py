"""Outer steps of replicas, taken together: `metarun.training.loop.fit` for several runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from metarun.fused.replicas import Replicas
from metarun.tasks import Batch
from metarun.training.compilation import OnFailure
from metarun.training.gradients import compiled_with_gradient
from metarun.training.loop import stage_at
from metarun.training.meta_optimizer import steps_group


class Steps(NamedTuple):
    """One outer step of all replicas: its number, each one's losses by objective `[R]`, batch and random
    inputs `[R, T, ...]`.

    `failed` holds the replicas whose loss became NaN or infinite in this step, with that loss. They keep the parameters
    from before it, and what later steps say of them means nothing.
    """

    iteration: int
    losses: dict[str, list[float]]
    batch: Batch
    random_inputs: Any
    failed: dict[int, float]
    seconds: float

    def loss(self, r: int) -> float:
        """The sum over objectives of replica r."""
        return sum(values[r] for values in self.losses.values())


def fit_together(
    replicas: Replicas,
    iterations: int,
    meta_batch_size: int,
    task_micro_batch: int | None = None,
    compiled: bool = False,
    on_failure: OnFailure | None = None,
) -> Iterator[Steps]:
    """`metarun.training.loop.fit` for replicas: until all are at `iterations`, or none is active.

    Args:
        replicas: where to start; changed in place.
        iterations: the length of the whole training.
        meta_batch_size: T, tasks in an outer step of each replica.
        task_micro_batch: at most that many tasks of each replica in one forward pass.
        compiled: compile the program.
        on_failure: where torch cannot compile, called with the error before training goes on uncompiled.

    Raises:
        CompilationError: torch cannot compile, and there is no `on_failure`.
    """
    learner, meta_optimizer = replicas.learner, replicas.meta_optimizer
    program = replicas.program()
    if compiled:
        program = compiled_with_gradient(program, learner.progress.device, on_failure)
    for training in replicas.trainings:
        training.learner.train()
    learner.train()
    while replicas.active and (done := replicas.iteration) < iterations:
        started = time.perf_counter()
        stage = stage_at(learner.stages, done, iterations)
        learner.progress.fill_(done / iterations)
        batch, random_inputs = replicas.sample(stage.stream, meta_batch_size)
        factor = meta_optimizer.factor(done)
        losses: dict[str, list[float]] = {}
        failed: dict[int, float] = {}
        for objective in stage.objectives:
            learner.zero_grad(set_to_none=True)
            losses[objective] = values = replicas.backward(program, batch, random_inputs, objective, task_micro_batch)
            failed |= replicas.drop_diverged(values)
            for name in replicas.optimizers:
                if steps_group(objective, name):
                    replicas.step(name, factor)
        replicas.after_step()
        for r in replicas.active:
            replicas.trainings[r].iteration += 1
        yield Steps(done + 1, losses, batch, random_inputs, failed, time.perf_counter() - started)
