"""`fit`: the only place where meta-parameters change, the same for every learner.

For each objective of the stage: zero the gradients, forward chunk by chunk, backward of the mean over the T tasks,
step the optimizers of the objective's name (`all`: every one).

Random numbers are drawn here, whole, before the tasks are chunked or mapped: a mask drawn inside vmap differs
between one batch, two chunks, a loop and a compiled program, whose results could then never be compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metarun.algos.learner import Learner, Stage, count_tasks, slice_tasks
from metarun.distributed import Alone
from metarun.gradients import Gradient, compiled_gradient_of, gradient_of
from metarun.tasks.task import Batch, TaskSet, stream_generator

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
}


class Diverged(ArithmeticError):
    """The loss became NaN or infinite."""

    def __init__(self, iteration: int, what: str) -> None:
        super().__init__(f"{what} at iteration {iteration}")
        self.iteration = iteration


class OuterOptimizer:
    """How meta-parameters are stepped: an optimizer's class, its learning rate over time, and clipping.

    Args:
        optimizer: factory, `optimizer(params, lr=...)`.
        lr: learning rate at the start.
        schedule: `constant`, `cosine` or `linear` (both to zero at the last iteration), or `halve`.
        halve_every: iterations between two halvings under `halve`.
        clip: largest norm of each optimizer's gradient, or None.
        clip_value: largest absolute value of each of its entries, or None (MAML on mini-ImageNet: 10).

    Raises:
        ValueError: an unknown schedule, a rate or bound that is not positive, or `halve` without `halve_every`.
    """

    def __init__(
        self,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr: float,
        schedule: str,
        halve_every: int | None,
        clip: float | None,
        clip_value: float | None,
    ) -> None:
        if schedule not in (*SCHEDULES, "halve"):
            raise ValueError(f"optimizer.schedule must be one of {', '.join((*SCHEDULES, 'halve'))}; got {schedule!r}")
        if (schedule == "halve") != (halve_every is not None):
            raise ValueError("optimizer.halve_every goes with optimizer.schedule=halve, and only with it")
        bounds = {"lr": lr, "halve_every": halve_every, "clip": clip, "clip_value": clip_value}
        for name, value in bounds.items():
            if value is not None and not value > 0:
                raise ValueError(f"optimizer.{name} must be above 0; got {value}")
        self.optimizer, self.lr, self.schedule, self.halve_every = optimizer, lr, schedule, halve_every
        self.clip, self.clip_value = clip, clip_value

    def factor(self, iteration: int, iterations: int) -> float:
        """What the learning rate is multiplied with in iteration 0, 1, ..., `iterations` - 1."""
        if self.halve_every is not None:
            return 0.5 ** (iteration // self.halve_every)
        return SCHEDULES[self.schedule](iteration / iterations)

    def build(self, learner: Learner) -> dict[str, torch.optim.Optimizer]:
        """One optimizer for each of the learner's parameter groups that holds any parameter."""
        return {
            group["name"]: group.get("optimizer", self.optimizer)(group["params"], lr=group.get("lr", self.lr))
            for group in learner.parameter_groups()
            if group["params"]
        }

    def step(self, optimizer: torch.optim.Optimizer, factor: float) -> None:
        """Clip this optimizer's gradients and step it at `factor` times its initial learning rate."""
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
            if self.clip_value is not None:
                nn.utils.clip_grad_value_(group["params"], self.clip_value)
            if self.clip is not None:
                nn.utils.clip_grad_norm_(group["params"], self.clip)
        optimizer.step()


def steps_group(objective: str, group: str) -> bool:
    """Whether an objective steps the parameter group of that name; `all`, of either, goes with every other."""
    return objective == group or "all" in (objective, group)


class Step(NamedTuple):
    """One outer step: its number (the first is 1), mean loss over tasks of each objective, batch, wall time."""

    iteration: int
    losses: dict[str, float]
    batch: Batch
    noise: Any
    seconds: float

    @property
    def loss(self) -> float:
        """The sum over objectives; with the usual single one, the loss."""
        return sum(self.losses.values())


@dataclass
class Training:
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
    whole: bool = True

    @classmethod
    def begin(cls, learner: Learner, outer: OuterOptimizer, device: torch.device, seed: int) -> Training:
        """A training that has not started; each stream of random numbers is seeded by the run's seed and its name."""
        names = ["noise", *(f"tasks/{stage.stream}" for stage in learner.stages)]
        return cls(learner, outer.build(learner), {name: stream_generator(device, seed, name) for name in names})

    @contextmanager
    def step(self) -> Iterator[None]:
        """Inside is one outer step. One that fails before it changes a parameter leaves the generators as they were."""
        before = {name: generator.get_state() for name, generator in self.generators.items()}
        try:
            yield
        except RuntimeError:
            if self.whole:
                for name, generator in self.generators.items():
                    generator.set_state(before[name])
            raise
        self.iteration += 1
        self.whole = True

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
        for name, generator in self.generators.items():
            generator.set_state(state["generators"][name].cpu())


def stage_at(stages: tuple[Stage, ...], iteration: int, iterations: int) -> Stage:
    """The stage of outer step `iteration` (from 0): stages take their shares of `iterations` in turn."""
    end = 0.0
    for stage in stages:
        end += stage.share
        if iteration < round(end * iterations):
            return stage
    return stages[-1]


def fit(
    training: Training,
    data: TaskSet,
    outer: OuterOptimizer,
    iterations: int,
    meta_batch: int,
    chunk: int | None = None,
    compiled: bool = False,
    world: Alone | None = None,
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
        compiled: compile the step's gradient (metarun/gradients.py).
        world: the processes that share the tasks of a meta-batch; None: this is the only one.

    Raises:
        Diverged: a loss is NaN or infinite; the parameters are those before this step.
        RuntimeError: also, another process is gone; where `training.whole`, it is as it was before this step.
    """
    learner = training.learner
    learner.train()
    world = world or Alone()
    gradient = _gradient(learner, compiled, world)
    while learner.stages and training.iteration < iterations:
        started = time.perf_counter()
        stage = stage_at(learner.stages, training.iteration, iterations)
        learner.ways = data.outputs("train", stage.stream)
        learner.progress.fill_(training.iteration / iterations)
        factor = outer.factor(training.iteration, iterations)
        losses = {}
        with training.step():
            batch, noise = _draw(training, data, stage.stream, meta_batch)
            for objective in stage.objectives:
                learner.zero_grad(set_to_none=True)
                losses[objective] = loss = world.total(_backward(gradient, batch, noise, objective, chunk, world))
                if not math.isfinite(loss):
                    raise Diverged(training.iteration + 1, f"the loss became {loss}")
                training.whole = False
                for name, optimizer in training.optimizers.items():
                    if steps_group(objective, name):
                        outer.step(optimizer, factor)
            world.exchange(learner)
            learner.after_step()
        yield Step(training.iteration, losses, batch, noise, time.perf_counter() - started)


def _draw(training: Training, data: TaskSet, stream: str, tasks: int) -> tuple[Batch, Any]:
    """A meta-batch of the classes that the learner wishes for, if it does, and its noise."""
    learner, generator = training.learner, training.generators[f"tasks/{stream}"]
    wished = learner.wishes(tasks, generator)
    if wished is None:
        batch = learner.cast(data.draw("train", stream, tasks, generator))
    else:
        batch = learner.cast(data.draw_of("train", wished, generator))
    return batch, learner.cast(learner.noise(batch, learner.inner_steps, training.generators["noise"]))


def _gradient(learner: Learner, compiled: bool, world: Alone) -> Gradient:
    """`gradient(divisor, last, tasks, noise, objective)`; before the `last` processes do not wait for each other."""
    if compiled and world.size == 1:
        alone = compiled_gradient_of(learner, learner.parameters())
        return lambda divisor, _last, *arguments: alone(divisor, *arguments)
    forward = world.wrap(learner, torch.compile(learner, dynamic=False) if compiled else learner)
    shared = gradient_of(forward)

    def gradient(divisor: float, last: bool, *arguments: Any) -> Tensor:
        with nullcontext() if last else world.unfinished(forward):
            return shared(divisor / world.size, *arguments)  # the mean over processes is taken

    return gradient


def _backward(gradient: Gradient, batch: Batch, noise: Any, objective: str, chunk: int | None, world: Alone) -> float:
    """Accumulate the gradient of the mean loss over tasks, chunk by chunk; returns this process's part of that mean."""
    tasks = count_tasks(batch)
    total = 0.0
    parts = _chunks(world.share(batch, tasks), world.share(noise, tasks), chunk)
    for number, (part, part_noise) in enumerate(parts, 1):
        losses = gradient(tasks, number == len(parts), part, part_noise, objective)
        total += (losses.sum() / tasks).item()
    return total


def _chunks(batch: Batch, noise: Any, size: int | None) -> Sequence[tuple[Any, Any]]:
    tasks = count_tasks(batch)
    if size is None or size >= tasks:
        return [(batch, noise)]
    return [(slice_tasks(batch, at, at + size), slice_tasks(noise, at, at + size)) for at in range(0, tasks, size)]
