"""`fit`: the only place where meta-parameters change, the same for every learner.

For each objective of the stage: zero the gradients, run the forward pass micro-batch by micro-batch, backpropagate the
mean over the T tasks, and step the optimizers of the objective's name (`all`: every one).

Random inputs are sampled here for the whole meta-batch, before it is split or mapped: a mask sampled inside vmap
differs between one batch, two micro-batches, a loop and a compiled program, whose results could then not be compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metarun.learner.learner import Learner, Stage, count_tasks, slice_tasks
from metarun.sampling import stream_generator
from metarun.tasks import Batch, TaskSet
from metarun.training.compilation import CompiledProgram, OnFailure
from metarun.training.distributed import SingleProcess
from metarun.training.gradients import Gradient, compiled_gradient_of, gradient_of
from metarun.training.meta_optimizer import MetaOptimizer, steps_group

# Streams whose seeds are made of an older name, so that a seed keeps its numbers.
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
    """One outer step.

    Attributes:
        iteration: its index, from 1.
        losses: mean over tasks, by objective.
        batch: the meta-batch.
        random_inputs: the learner's, for the batch.
        seconds: wall time.
    """

    iteration: int
    losses: dict[str, float]
    batch: Batch
    random_inputs: Any
    seconds: float

    @property
    def loss(self) -> float:
        """The sum over objectives, of which there is usually one."""
        return sum(self.losses.values())


@dataclass
class TrainState:
    """Everything that changes during training, hence everything that a checkpoint holds.

    Args:
        learner: its parameters and buffers.
        optimizers: by name of their parameter group.
        generators: of tasks (by stream) and of random inputs.
        iteration: outer steps done.
        consistent: False while a step has changed some parameters but is not complete: such a state is not saved.
    """

    learner: Learner
    optimizers: dict[str, torch.optim.Optimizer]
    generators: dict[str, torch.Generator]
    iteration: int = 0
    consistent: bool = True

    @classmethod
    def create(cls, learner: Learner, meta_optimizer: MetaOptimizer, device: torch.device, seed: int) -> TrainState:
        """The state before the first step; each random generator is seeded by the run's seed and its own name."""
        names = ["random_inputs", *(f"tasks/{stage.stream}" for stage in learner.stages)]
        generators = {name: stream_generator(device, seed, SEED_NAMES.get(name, name)) for name in names}
        return cls(learner, meta_optimizer.build(learner), generators)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Run one outer step inside. If it fails before it changes a parameter, the generators are set back."""
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
        """Optimizers, generators and the iteration; the learner's own state is saved separately."""
        return {
            "iteration": self.iteration,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "generators": {name: generator.get_state() for name, generator in self.generators.items()},
        }

    def generator_names(self) -> list[tuple[str, ...]]:
        """What a checkpoint may call the state of each generator: its name, and an older one."""
        return [(name, SEED_NAMES.get(name, name)) for name in self.generators]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.iteration = state["iteration"]
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        saved = state["generators"]
        for name, generator in self.generators.items():
            generator.set_state((saved[name] if name in saved else saved[SEED_NAMES[name]]).cpu())


def stage_at(stages: tuple[Stage, ...], iteration: int, iterations: int) -> Stage:
    """The stage of outer step `iteration` (from 0): stages follow each other, each for its share of `iterations`."""
    end = 0.0
    for stage in stages:
        end += stage.share
        if iteration < round(end * iterations):
            return stage
    return stages[-1]


def fit(
    state: TrainState,
    data: TaskSet,
    meta_optimizer: MetaOptimizer,
    iterations: int,
    meta_batch_size: int,
    task_micro_batch: int | None = None,
    compiled: bool = False,
    world: SingleProcess | None = None,
    on_failure: OnFailure | None = None,
) -> Iterator[Step]:
    """Train until `iterations` outer steps are done in all, yielding after each.

    Between two steps the caller may evaluate, save `state`, or stop.

    Args:
        state: where to start; changed in place.
        data: tasks are sampled from its split `train`.
        meta_optimizer: learning rate over time, and clipping.
        iterations: length of the whole training, of which stages take their shares.
        meta_batch_size: T, tasks in an outer step.
        task_micro_batch: largest number of tasks in one forward pass, to bound memory; the gradient is the same.
        compiled: compile the step's gradient (metarun/training/gradients.py).
        world: the processes that share the tasks of a meta-batch; None: this one only.
        on_failure: where torch cannot compile, called with the error before training goes on uncompiled.

    Raises:
        CompilationError: torch cannot compile, and there is no `on_failure`.
        DivergenceError: a loss is NaN or infinite; the parameters are those before this step.
        RuntimeError: also if another process is gone; if `state.consistent`, the state is the one before this step.
    """
    learner = state.learner
    learner.train()
    if not learner.stages or state.iteration >= iterations:
        return  # processes that have nothing to do need not find each other
    world = world or SingleProcess()
    gradient = _gradient(learner, compiled, world, on_failure)
    while state.iteration < iterations:
        started = time.perf_counter()
        stage = stage_at(learner.stages, state.iteration, iterations)
        learner.ways = data.outputs("train", stage.stream)
        learner.progress.fill_(state.iteration / iterations)
        factor = meta_optimizer.factor(state.iteration)
        losses = {}
        with state.step():
            batch, random_inputs = _sample(state, data, stage.stream, meta_batch_size)
            for objective in stage.objectives:
                learner.zero_grad(set_to_none=True)
                losses[objective] = loss = world.all_reduce_sum(
                    _backward(gradient, batch, random_inputs, objective, task_micro_batch, world)
                )
                if not math.isfinite(loss):
                    raise DivergenceError(state.iteration + 1, f"the loss became {loss}")
                state.consistent = False
                for name, optimizer in state.optimizers.items():
                    if steps_group(objective, name):
                        meta_optimizer.step(optimizer, factor)
            world.sync_running_stats(learner)
            learner.after_step()
        yield Step(state.iteration, losses, batch, random_inputs, time.perf_counter() - started)


def _sample(state: TrainState, data: TaskSet, stream: str, tasks: int) -> tuple[Batch, Any]:
    """A meta-batch, of the classes that the learner requests if it does, and the random inputs for it."""
    learner, generator = state.learner, state.generators[f"tasks/{stream}"]
    classes = learner.request_classes(tasks, generator)
    if classes is None:
        batch = learner.to_dtype(data.sample("train", stream, tasks, generator))
    else:
        batch = learner.to_dtype(data.sample_classes("train", classes, generator))
    random_inputs = learner.random_inputs(batch, learner.inner_steps, state.generators["random_inputs"])
    return batch, learner.to_dtype(random_inputs)


class _CompiledLearner(nn.Module):
    """A learner whose forward pass is compiled; its parameters are the learner's."""

    def __init__(self, learner: Learner, on_failure: OnFailure | None) -> None:
        super().__init__()
        self.learner = learner
        self.program = CompiledProgram(learner, torch.compile(learner, dynamic=False), on_failure)

    def forward(self, *arguments: Any) -> Tensor:
        return self.program(*arguments)


def _gradient(learner: Learner, compiled: bool, world: SingleProcess, on_failure: OnFailure | None) -> Gradient:
    """`gradient(divisor, last, tasks, random_inputs, objective)`; processes wait for each other at the `last` only."""
    if compiled and world.size == 1:
        single = compiled_gradient_of(learner, learner.parameters(), on_failure)
        return lambda divisor, _last, *arguments: single(divisor, *arguments)
    forward = world.wrap(learner, _CompiledLearner(learner, on_failure) if compiled else learner)
    accumulate = gradient_of(forward)

    def gradient(divisor: float, last: bool, *arguments: Any) -> Tensor:
        with nullcontext() if last else world.no_sync(forward):
            return accumulate(divisor / world.size, *arguments)  # `forward` takes the mean over processes

    return gradient


def _backward(
    gradient: Gradient,
    batch: Batch,
    random_inputs: Any,
    objective: str,
    task_micro_batch: int | None,
    world: SingleProcess,
) -> float:
    """Accumulate the gradient of the mean loss over tasks; returns this process's share of that mean."""
    tasks = count_tasks(batch)
    total = 0.0
    micro_batches = _micro_batches(world.shard(batch, tasks), world.shard(random_inputs, tasks), task_micro_batch)
    for index, (micro_batch, inputs) in enumerate(micro_batches, 1):
        losses = gradient(tasks, index == len(micro_batches), micro_batch, inputs, objective)
        total += (losses.sum() / tasks).item()
    return total


def _micro_batches(batch: Batch, random_inputs: Any, size: int | None) -> list[tuple[Any, Any]]:
    tasks = count_tasks(batch)
    if size is None or size >= tasks:
        return [(batch, random_inputs)]
    return [
        (slice_tasks(batch, at, at + size), slice_tasks(random_inputs, at, at + size)) for at in range(0, tasks, size)
    ]
