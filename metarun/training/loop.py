"""`fit`: the only place where meta-parameters change, the same for every learner.

For each objective of the stage: zero the gradients, forward chunk by chunk, backward of the mean over the T tasks,
step the optimizers of the objective's name (`all`: every one).

Random numbers are drawn here, whole, before the tasks are chunked or mapped: a mask drawn inside vmap differs
between one batch, two chunks, a loop and a compiled program, whose results could then never be compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarun.learner.learner import Learner, Stage, count_tasks, slice_tasks
from metarun.sampling import stream_generator
from metarun.tasks import Batch, TaskSet
from metarun.training.distributed import SingleProcess
from metarun.training.gradients import Gradient, compiled_gradient_of, gradient_of
from metarun.training.meta_optimizer import MetaOptimizer, steps_group

# The names that seeds were made of before streams were renamed: they stay, so that a seed keeps its numbers.
SEED_NAMES = {
    "random_inputs": "noise",
    "tasks/batches": "tasks/flat",
    "tasks/episodes_and_batches": "tasks/episodes_and_flat",
}


class DivergenceError(ArithmeticError):
    """The loss became NaN or infinite."""

    def __init__(self, iteration: int, what: str) -> None:
        super().__init__(f"{what} at iteration {iteration}")
        self.iteration = iteration


class Step(NamedTuple):
    """One outer step: its number (the first is 1), mean loss over tasks of each objective, batch, wall time."""

    iteration: int
    losses: dict[str, float]
    batch: Batch
    random_inputs: Any
    seconds: float

    @property
    def loss(self) -> float:
        """The sum over objectives; with the usual single one, the loss."""
        return sum(self.losses.values())


@dataclass
class TrainState:
    """Everything that changes while a learner is trained, and so everything that a checkpoint must hold.

    Args:
        learner: its parameters and buffers.
        optimizers: by name of their parameter group.
        generators: of tasks (by stream) and of noise.
        iteration: outer steps done.
        whole: no step is half done; False: what changed last belongs to no iteration, and is not to be saved.
    """

    learner: Learner
    optimizers: dict[str, torch.optim.Optimizer]
    generators: dict[str, torch.Generator]
    iteration: int = 0
    consistent: bool = True

    @classmethod
    def create(cls, learner: Learner, meta_optimizer: MetaOptimizer, device: torch.device, seed: int) -> TrainState:
        """A training that has not started; each stream of random numbers is seeded by the run's seed and its name."""
        names = ["random_inputs", *(f"tasks/{stage.stream}" for stage in learner.stages)]
        generators = {name: stream_generator(device, seed, SEED_NAMES.get(name, name)) for name in names}
        return cls(learner, meta_optimizer.build(learner), generators)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Inside is one outer step. One that fails before it changes a parameter leaves the generators as they were."""
        before = {name: generator.get_state() for name, generator in self.generators.items()}
        try:
            yield
        except RuntimeError:
            if self.consistent:
                for name, generator in self.generators.items():
                    generator.set_state(before[name])
            raise
        self.iteration += 1
        self.consistent = True

    def state_dict(self) -> dict[str, Any]:
        """Optimizers, generators and the iteration; the learner's own state is saved beside it."""
        return {
            "iteration": self.iteration,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "generators": {name: generator.get_state() for name, generator in self.generators.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a saved state."""
        self.iteration = state["iteration"]
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        saved = state["generators"]
        for name, generator in self.generators.items():
            generator.set_state((saved[name] if name in saved else saved[SEED_NAMES[name]]).cpu())


def stage_at(stages: tuple[Stage, ...], iteration: int, iterations: int) -> Stage:
    """The stage of outer step `iteration` (from 0): stages take their shares of `iterations` in turn."""
    end = 0.0
    for stage in stages:
        end += stage.share
        if iteration < round(end * iterations):
            return stage
    return stages[-1]


def fit(
    training: TrainState,
    data: TaskSet,
    meta_optimizer: MetaOptimizer,
    iterations: int,
    meta_batch_size: int,
    chunk: int | None = None,
    compiled: bool = False,
    world: SingleProcess | None = None,
) -> Iterator[Step]:
    """Train until `iterations` outer steps are done in all, yielding after each.

    Between two steps the caller may evaluate, save `training`, or stop.

    Args:
        training: where to start; changed in place.
        data: tasks are drawn from its part `train`.
        outer: schedule and clipping.
        iterations: the length of the whole training, which schedules and stages refer to.
        meta_batch: T, tasks in an outer step.
        chunk: at most so many tasks in one forward pass, to bound memory; the gradient is the same.
        compiled: compile the step's gradient (metarun/training/gradients.py).
        world: the processes that share the tasks of a meta-batch; None: this is the only one.

    Raises:
        Diverged: a loss is NaN or infinite; the parameters are those before this step.
        RuntimeError: also, another process is gone; where `training.consistent`, it is as it was before this step.
    """
    learner = training.learner
    learner.train()
    world = world or SingleProcess()
    gradient = _gradient(learner, compiled, world)
    while learner.stages and training.iteration < iterations:
        started = time.perf_counter()
        stage = stage_at(learner.stages, training.iteration, iterations)
        learner.ways = data.outputs("train", stage.stream)
        learner.progress.fill_(training.iteration / iterations)
        factor = meta_optimizer.factor(training.iteration)
        losses = {}
        with training.step():
            batch, random_inputs = _draw(training, data, stage.stream, meta_batch_size)
            for objective in stage.objectives:
                learner.zero_grad(set_to_none=True)
                losses[objective] = loss = world.all_reduce_sum(
                    _backward(gradient, batch, random_inputs, objective, chunk, world)
                )
                if not math.isfinite(loss):
                    raise DivergenceError(training.iteration + 1, f"the loss became {loss}")
                training.consistent = False
                for name, optimizer in training.optimizers.items():
                    if steps_group(objective, name):
                        meta_optimizer.step(optimizer, factor)
            world.sync_running_stats(learner)
            learner.after_step()
        yield Step(training.iteration, losses, batch, random_inputs, time.perf_counter() - started)


def _draw(training: TrainState, data: TaskSet, stream: str, tasks: int) -> tuple[Batch, Any]:
    """A meta-batch of the classes that the learner wishes for, if it does, and its noise."""
    learner, generator = training.learner, training.generators[f"tasks/{stream}"]
    requested = learner.request_classes(tasks, generator)
    if requested is None:
        batch = learner.to_dtype(data.sample("train", stream, tasks, generator))
    else:
        batch = learner.to_dtype(data.sample_classes("train", requested, generator))
    return batch, learner.to_dtype(
        learner.random_inputs(batch, learner.inner_steps, training.generators["random_inputs"])
    )


def _gradient(learner: Learner, compiled: bool, world: SingleProcess) -> Gradient:
    """`gradient(divisor, last, tasks, noise, objective)`; before the `last` processes do not wait for each other."""
    if compiled and world.size == 1:
        alone = compiled_gradient_of(learner, learner.parameters())
        return lambda divisor, _last, *arguments: alone(divisor, *arguments)
    forward = world.wrap(learner, torch.compile(learner, dynamic=False) if compiled else learner)
    shared = gradient_of(forward)

    def gradient(divisor: float, last: bool, *arguments: Any) -> Tensor:
        with nullcontext() if last else world.no_sync(forward):
            return shared(divisor / world.size, *arguments)  # the mean over processes is taken

    return gradient


def _backward(
    gradient: Gradient, batch: Batch, random_inputs: Any, objective: str, chunk: int | None, world: SingleProcess
) -> float:
    """Accumulate the gradient of the mean loss over tasks, chunk by chunk; returns this process's part of that mean."""
    tasks = count_tasks(batch)
    total = 0.0
    parts = _chunks(world.shard(batch, tasks), world.shard(random_inputs, tasks), chunk)
    for number, (part, part_random_inputs) in enumerate(parts, 1):
        losses = gradient(tasks, number == len(parts), part, part_random_inputs, objective)
        total += (losses.sum() / tasks).item()
    return total


def _chunks(batch: Batch, random_inputs: Any, size: int | None) -> Sequence[tuple[Any, Any]]:
    tasks = count_tasks(batch)
    if size is None or size >= tasks:
        return [(batch, random_inputs)]
    return [
        (slice_tasks(batch, at, at + size), slice_tasks(random_inputs, at, at + size)) for at in range(0, tasks, size)
    ]
