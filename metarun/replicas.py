"""Replicas: R trainings that differ only in seed or in 0-dim numbers, run as one program.

Parameters and buffers are stacked `[R, ...]`; `vmap` over replicas goes around `vmap` over tasks; one element-wise
optimizer steps the stacks. Each replica keeps a learner, optimizers and generators of its own, whose tensors are
views of its slot in the stacks: it is saved, resumed and judged like a training of its own, and its numbers are
those of one, to rounding.

Each replica's own: initial weights, tasks, noise, numbers, outer learning rate, gradient clipping, NaN guard, running
statistics. Shared: the program, the iteration, the shapes.

Any learner can be fused whose tasks go through `vmap`, whose state is parameters and buffers that change in the outer
step only, and whose optimizers are element-wise (`why_alone`): any number of inner steps, first or second order, every
mode of batch norm, networks with convolutions.

Chunks bound memory: of tasks, as everywhere, and of replicas. A forward and backward pass takes one chunk of replicas;
gradients gather in the stacks, and the optimizer steps all at once. A chunk of one is not mapped over replicas: it
costs what a training of its own costs, where on a CPU a mapped convolution, which goes in groups, may cost more; so
`Device.replicas_at_once` has a rule.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils import _pytree as pytree

from metarun.algos.learner import Learner
from metarun.backbones.norm import BatchNorm, batch_norms
from metarun.evaluate import Evaluation, batch_metrics, evaluate_by, longest
from metarun.gradients import compiled_with_gradient
from metarun.loop import OuterOptimizer, Training, stage_at, steps_group
from metarun.tasks.task import Batch, Part, TaskSet

# Each entry of a step depends on that entry's gradients alone, and is proportional to the learning rate.
ELEMENT_WISE = (
    *(torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam),
    *(torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad),
)

Statistics = list[list[tuple[Tensor, Tensor]]]  # of each norm in mode `running`: mean and variance `[n, channels]`

COUNTS = ("step", "mu_product")  # what these optimizers keep of the number of steps: one for all entries, and replicas


def why_alone(training: Training) -> str | None:
    """Why this training cannot be one of several replicas; None where it can."""
    learner = training.learner
    if not learner.stages:
        return "it is not trained"
    if not learner.vectorized:
        return "it goes task after task"
    if not learner.replicable:
        return "it changes state outside the outer step"
    for optimizer in training.optimizers.values():
        if not isinstance(optimizer, ELEMENT_WISE):
            return f"{type(optimizer).__name__} does not step each entry by itself"
    return None


class Steps(NamedTuple):
    """One outer step of all replicas: its number, each one's losses by objective `[R]`, batch and noise `[R, T, ...]`.

    `failed` holds the replicas whose loss became NaN or infinite in this step, with that loss. They keep the parameters
    from before it, and what later steps say of them means nothing.
    """

    iteration: int
    losses: dict[str, list[float]]
    batch: Batch
    noise: Any
    failed: dict[int, float]
    seconds: float

    def loss(self, r: int) -> float:
        """The sum over objectives of replica r."""
        return sum(values[r] for values in self.losses.values())


class Method(nn.Module):
    """A module around a learner whose `forward` calls any function: `functional_call` knows no other method."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, function: Callable, *args: Any) -> Any:
        return function(*args)


class Passed(NamedTuple):
    """What n replicas made of a chunk of tasks: meta-losses `[n, T]`, what their norms gathered, gradients `[n, ...]`.

    A gradient is that of each replica's mean over all of its tasks, by name; None: no part in the losses.
    """

    losses: Tensor
    statistics: Statistics
    gradient: dict[str, Tensor | None]


Program = Callable[..., Passed]


class Chunk(NamedTuple):
    """Replicas that go through the program together: which, and a learner whose tensors are their slots of the stacks.

    Its parameters `[members, ...]` are leaves, so that gradients are the chunk's alone; its `after_step` is theirs.
    """

    members: slice
    learner: Learner


class Replicas:
    """R trainings in one program. While it lives, the trainings' learners hold views of its stacks.

    Args:
        trainings: of learners of one class and shape, all at the same iteration, none with a reason in `why_alone`.
        data: each training's tasks; the same object where they are the same.
        outer: schedule, clipping and optimizer of all of them.
        size: at most so many replicas in one forward and backward pass; None: all.

    Raises:
        ValueError: no training, different iterations, one that cannot be fused, or a size below 1.
    """

    def __init__(
        self, trainings: Sequence[Training], data: Sequence[TaskSet], outer: OuterOptimizer, size: int | None = None
    ) -> None:
        if not trainings or len(trainings) != len(data):
            raise ValueError("replicas need at least one training, and a task set for each")
        if len({training.iteration for training in trainings}) > 1:
            raise ValueError("replicas must stand at the same iteration")
        for training in trainings:
            if (reason := why_alone(training)) is not None:
                raise ValueError(f"cannot be fused: {reason}")
        if size is not None and size < 1:
            raise ValueError(f"replicas go through the program at least one at a time; got {size}")
        self.trainings, self.data, self.outer = list(trainings), list(data), outer
        self.size = min(size or len(trainings), len(trainings))
        self.alive = set(range(len(trainings)))
        self.learner = copy.deepcopy(trainings[0].learner)  # its tensors become the stacks
        self._chunks = [Chunk(slice(0, len(self)), self.learner)]
        if self.size < len(self):
            self._chunks = [
                Chunk(slice(at, at + self.size), copy.deepcopy(self.learner)) for at in range(0, len(self), self.size)
            ]
        self._stack()
        self.optimizers = outer.build(self.learner)
        self._rates = {name: self._initial_rates(name) for name in self.optimizers}
        self._take_state()
        self._gathered: list[tuple[Learner, Statistics, int]] = []

    def __len__(self) -> int:
        return len(self.trainings)

    @property
    def iteration(self) -> int:
        return self.trainings[min(self.alive, default=0)].iteration

    # -------------------------------------------------------------------------------------------- the stacks

    def _stack(self) -> None:
        """Stack parameters and buffers, and make the tensors of each learner, and each chunk's, views of the slots."""
        own = [tensors_of(training.learner) for training in self.trainings]
        parts = [(chunk.members, tensors_of(chunk.learner)) for chunk in self._chunks]
        for name, tensor in self.state().items():
            tensor.data = stacked([tensors[name].detach() for tensors in own])
            for r, tensors in enumerate(own):
                tensors[name].data = tensor.data[r]
            for members, tensors in parts:
                tensors[name].data = tensor.data[members]

    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, `[R, ...]`."""
        return tensors_of(self.learner)

    def living_chunks(self) -> list[Chunk]:
        """The chunks with a replica that is alive."""
        return [chunk for chunk in self._chunks if self.alive & set(range(len(self))[chunk.members])]

    def _pairs(self, name: str) -> Iterator[tuple[list[nn.Parameter], nn.Parameter]]:
        """The replicas' parameters and their stack, for each parameter of the optimizer `name`."""
        stacks = [p for group in self.optimizers[name].param_groups for p in group["params"]]
        own = [
            [p for group in training.optimizers[name].param_groups for p in group["params"]]
            for training in self.trainings
        ]
        yield from zip(map(list, zip(*own, strict=True)), stacks, strict=True)

    def _initial_rates(self, name: str) -> list[float]:
        groups = [training.optimizers[name].param_groups[0] for training in self.trainings]
        return [float(group.get("initial_lr", group["lr"])) for group in groups]

    def _take_state(self) -> None:
        """Optimizer states of trainings that have begun, stacked; a count of steps is the same in all."""
        for name, optimizer in self.optimizers.items():
            for own, stack in self._pairs(name):
                states = [t.optimizers[name].state.get(p, {}) for t, p in zip(self.trainings, own, strict=True)]
                if states[0]:
                    optimizer.state[stack] = {
                        key: value.clone() if key in COUNTS else stacked([s[key] for s in states])
                        for key, value in states[0].items()
                        if isinstance(value, Tensor)
                    }

    def hand_out(self) -> None:
        """Give each living replica's optimizers a copy of their part of the state: before it is saved."""
        for name, optimizer in self.optimizers.items():
            for own, stack in self._pairs(name):
                state = optimizer.state.get(stack, {})
                for r in self.alive:
                    self.trainings[r].optimizers[name].state[own[r]] = {
                        key: value[r].clone() if isinstance(value, Tensor) and key not in COUNTS else value
                        for key, value in state.items()
                    }

    def _release(self, r: int) -> None:
        """Give replica r tensors of its own, as they are now; its slot goes on with another's values."""
        self.alive.discard(r)
        learner = self.trainings[r].learner
        for tensor in (*learner.parameters(), *learner.buffers()):
            tensor.data = tensor.data.clone()
        if self.alive:
            for stack in self.state().values():
                stack.data[r] = stack.data[min(self.alive)]
                if stack.grad is not None:
                    stack.grad[r] = 0

    def guard(self, losses: list[float]) -> dict[int, float]:
        """Let go of the living replicas whose loss is NaN or infinite; returns them with it."""
        failed = {r: losses[r] for r in sorted(self.alive) if not math.isfinite(losses[r])}
        for r in failed:
            self._release(r)
        return failed

    # -------------------------------------------------------------------------------------------- the program

    def program(self) -> Program:
        """What n replicas do with a chunk of tasks, a `Passed` of `(state, batch, noise, objective, tasks in all)`.

        It may be compiled (metarun/gradients.py).
        """
        learner, norms = self.learner, running_norms(self.learner)
        trained = [name for name, parameter in learner.named_parameters() if parameter.requires_grad]

        def step(state: dict[str, Tensor], batch: Batch, noise: Any, objective: str, tasks: int) -> Passed:
            def one(state: dict[str, Tensor], batch: Batch, noise: Any) -> tuple[Tensor, Statistics]:
                losses = functional_call(learner, state, (batch, noise, objective))
                return losses, [norm.hand_over() for norm in norms]

            losses, statistics = over_replicas(one, state, batch, noise)
            slopes = torch.autograd.grad(losses.sum() / tasks, [state[n] for n in trained], allow_unused=True)
            return Passed(losses.detach(), statistics, dict(zip(trained, slopes, strict=True)))

        return step

    def draw(self, stream: str, tasks: int) -> tuple[Batch, Any]:
        """Each replica's tasks and noise, `[R, T, ...]`, from its own generators."""
        self.learner.ways = self.data[0].outputs("train", stream)
        generators = [training.generators[f"tasks/{stream}"] for training in self.trainings]
        batches, order = [], []
        for data, members in self._by_data():
            batches.append(data.draw_together("train", stream, tasks, [generators[r] for r in members]))
            order += members
        if len(batches) == 1:
            batch = batches[0]
        else:
            place = torch.tensor(order).argsort()
            batch = pytree.tree_map(lambda *leaves: torch.cat(leaves)[place.to(leaves[0].device)], *batches)
        return self.learner.cast((batch, self._noise(batch)))

    def _noise(self, batch: Batch) -> Any:
        if type(self.learner).noise is Learner.noise:
            return ()
        shapes = pytree.tree_map(lambda leaf: leaf[0], batch)  # of a batch, noise knows nothing else
        each = [t.learner.noise(shapes, t.learner.inner_steps, t.generators["noise"]) for t in self.trainings]
        return pytree.tree_map(lambda *leaves: torch.stack(leaves), *each)

    def _by_data(self) -> Iterator[tuple[TaskSet, list[int]]]:
        """Each task set, with the replicas that draw from it."""
        for data in dict.fromkeys(self.data):
            yield data, [r for r, own in enumerate(self.data) if own is data]

    # ------------------------------------------------------------------------------------------- the outer step

    def backward(
        self,
        program: Program,
        batch: Batch,
        noise: Any,
        objective: str,
        chunk: int | None,
    ) -> list[float]:
        """Accumulate each replica's gradient of its mean loss over tasks, chunk by chunk; returns those means.

        Args:
            program: as `program` gives it.
            batch, noise: `[R, T, ...]`.
            objective: of the stage.
            chunk: at most so many tasks of each replica in one forward pass.
        """
        tasks = pytree.tree_leaves(batch)[0].shape[1]
        size = chunk or tasks
        total = torch.zeros(len(self), dtype=torch.float64)
        for members, learner in self.living_chunks():
            for at in range(0, tasks, size):
                rows = (members, slice(at, at + size))
                part, part_noise = pytree.tree_map(lambda leaf, rows=rows: leaf[rows], (batch, noise))
                losses, statistics, gradient = program(tensors_of(learner), part, part_noise, objective, tasks)
                total[members] += (losses.sum(1) / tasks).double().cpu()
                self._gathered.append((learner, statistics, losses.shape[1]))
                self._collect(members, gradient)
        return total.tolist()

    def _collect(self, members: slice, gradient: dict[str, Tensor | None]) -> None:
        """Add a chunk's gradients `[members, ...]` to the stacks'."""
        stacks = dict(self.learner.named_parameters())
        for name, slope in gradient.items():
            if slope is not None:
                stack = stacks[name]
                if stack.grad is None:
                    stack.grad = torch.zeros_like(stack)
                stack.grad[members] += slope

    def after_step(self) -> None:
        """As `Learner.after_step`, of all replicas: on the slots of a chunk together, element by element."""
        for learner, statistics, tasks in self._gathered:
            for norm, found in zip(running_norms(learner), statistics, strict=True):
                norm.gathered += [(mean, var, tasks) for mean, var in found]
        self._gathered.clear()
        for chunk in self._chunks:
            chunk.learner.after_step()

    def step(self, name: str, factor: float) -> None:
        """Clip each replica's gradients and step the optimizer `name` at `factor` times the initial rates."""
        optimizer, rates = self.optimizers[name], self._rates[name]
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._clip(params)
        for group in optimizer.param_groups:
            group["lr"] = rates[0] * factor
        for training, rate in zip(self.trainings, rates, strict=True):
            for group in training.optimizers[name].param_groups:
                group["initial_lr"], group["lr"] = rate, rate * factor
        if len(set(rates)) == 1:
            optimizer.step()
            return
        # The optimizer knows one rate, and its step is proportional to it: stretch what it did.
        before = [p.detach().clone() for p in params]
        optimizer.step()
        for p, old in zip(params, before, strict=True):
            stretch = torch.tensor([rate / rates[0] for rate in rates], dtype=p.dtype, device=p.device)
            p.data.copy_(old + _along(stretch, p) * (p.data - old))

    def _clip(self, params: list[nn.Parameter]) -> None:
        gradients = [p.grad for p in params if p.grad is not None]
        if self.outer.clip_value is not None:
            for gradient in gradients:
                gradient.clamp_(-self.outer.clip_value, self.outer.clip_value)
        if self.outer.clip is not None:
            norms = torch.stack([g.reshape(len(self), -1).norm(dim=1) for g in gradients]).norm(dim=0)
            scale = (self.outer.clip / (norms + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                gradient.mul_(_along(scale, gradient))

    # --------------------------------------------------------------------------------------------- evaluation

    def score(
        self,
        members: Sequence[int],
        batch: Batch,
        noise: Any,
        steps: int,
        curve: bool,
        chunk: int | None = None,
        shared: bool = False,
    ) -> dict[int, dict[str, np.ndarray]]:
        """Metrics of replicas, `[T, columns]` each, as `evaluate_batch` gives them.

        Args:
            members: which replicas.
            batch, noise: each replica's own, `[R, T, ...]`, of all; or `shared`: the same for all, `[T, ...]`.
            steps, curve, chunk: as in `evaluate_batch`.
            shared: see `batch`.
        """
        method, kind = Method(self.learner), self.data[0].kind

        def one(state: dict[str, Tensor], batch: Batch, noise: Any) -> dict[str, Tensor]:
            inside = {f"learner.{name}": tensor for name, tensor in state.items()}
            return functional_call(method, inside, (batch_metrics, self.learner, kind, batch, noise, steps, curve))

        def of_some(some: Sequence[int], at: slice) -> dict[str, Tensor]:
            state = {name: stacked([tensor[r] for r in some]) for name, tensor in self.state().items()}
            if shared:
                part = pytree.tree_map(lambda leaf: leaf[at], (batch, noise))
                return over_replicas(lambda state: one(state, *part), state)
            return over_replicas(one, state, *pytree.tree_map(lambda leaf: leaf[some, at], (batch, noise)))

        tasks = pytree.tree_leaves(batch)[0].shape[0 if shared else 1]
        size = chunk or tasks
        found: dict[int, dict[str, np.ndarray]] = {}
        was_training = self.learner.training
        self.learner.eval()
        with torch.no_grad():
            for first in range(0, len(members), self.size):
                some = members[first : first + self.size]
                parts = [of_some(some, slice(at, at + size)) for at in range(0, tasks, size)]
                values = {name: torch.cat([p[name] for p in parts], 1).double().cpu().numpy() for name in parts[0]}
                found |= {r: {name: v[place] for name, v in values.items()} for place, r in enumerate(some)}
        self.learner.train(was_training)
        return found

    def evaluate(
        self,
        part: Part,
        tasks: int,
        steps: int,
        curve: bool = True,
        on_block: Callable[[int], object] = lambda _done: None,
        chunk: int | None = None,
    ) -> dict[int, Evaluation]:
        """`metarun.evaluate.evaluate` of every living replica, on held-out tasks that all with the same data share."""
        steps = longest(self.learner, steps)
        found: dict[int, Evaluation] = {}
        for data, all_members in self._by_data():
            if not (members := [r for r in all_members if r in self.alive]):
                continue

            def score(batch: Batch, noise: Any, members: list[int] = members) -> dict[str, np.ndarray]:
                self.learner.ways = self.trainings[members[0]].learner.ways
                each = self.score(members, batch, noise, steps, curve, chunk, shared=True)
                return {name: np.stack([each[r][name] for r in members]) for name in each[members[0]]}

            # Noise is drawn by a learner that knows its own shapes, not by the stack of all.
            together = evaluate_by(score, self.trainings[members[0]].learner, data, part, tasks, steps, on_block)
            for place, r in enumerate(members):
                found[r] = replace(together, values={n: v[place] for n, v in together.values.items()})
        return found

    def inspect(self) -> dict[str, Tensor]:
        """Each replica's `inspect`, `[R]` by name."""
        method = Method(self.learner)

        def one(state: dict[str, Tensor]) -> dict[str, Tensor]:
            return functional_call(method, {f"learner.{n}": t for n, t in state.items()}, (self.learner.inspect,))

        with torch.no_grad():
            return {} if type(self.learner).inspect is Learner.inspect else vmap(one)(self.state())


def fit_together(
    replicas: Replicas, iterations: int, meta_batch: int, chunk: int | None = None, compiled: bool = False
) -> Iterator[Steps]:
    """`metarun.loop.fit` for replicas: until all are at `iterations`, or none is left alive.

    Args:
        replicas: where to start; changed in place.
        iterations: the length of the whole training.
        meta_batch: T, tasks in an outer step of each replica.
        chunk: at most so many tasks of each replica in one forward pass.
        compiled: compile the program.
    """
    learner, outer = replicas.learner, replicas.outer
    program = replicas.program()
    if compiled:
        program = compiled_with_gradient(program, learner.progress.device)
    for training in replicas.trainings:
        training.learner.train()
    learner.train()
    while replicas.alive and (done := replicas.iteration) < iterations:
        started = time.perf_counter()
        stage = stage_at(learner.stages, done, iterations)
        learner.progress.fill_(done / iterations)
        batch, noise = replicas.draw(stage.stream, meta_batch)
        factor = outer.factor(done, iterations)
        losses: dict[str, list[float]] = {}
        failed: dict[int, float] = {}
        for objective in stage.objectives:
            learner.zero_grad(set_to_none=True)
            losses[objective] = values = replicas.backward(program, batch, noise, objective, chunk)
            failed |= replicas.guard(values)
            for name in replicas.optimizers:
                if steps_group(objective, name):
                    replicas.step(name, factor)
        replicas.after_step()
        for r in replicas.alive:
            replicas.trainings[r].iteration += 1
        yield Steps(done + 1, losses, batch, noise, failed, time.perf_counter() - started)


def over_replicas(f: Callable, *stacks: Any) -> Any:
    """`f` of each replica; every leaf of the arguments and of the result leads with their number.

    One alone is not mapped, which would only cost.
    """
    if pytree.tree_leaves(stacks)[0].shape[0] > 1:
        return vmap(f, randomness="error")(*stacks)
    result = f(*pytree.tree_map(lambda leaf: leaf.squeeze(0), stacks))
    return pytree.tree_map(lambda leaf: leaf.unsqueeze(0), result)


def tensors_of(learner: Learner) -> dict[str, Tensor]:
    """Its parameters and buffers by name."""
    return {**dict(learner.named_parameters()), **dict(learner.named_buffers())}


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """`torch.stack` of tensors of one layout, whose slots have that layout, strides and all.

    By the strides of a convolution's weights torch chooses how images lie in memory, also where (with one channel) they
    only say what is meant: a step of conv4 took 93 ms in place of 81 with weights stacked by `torch.stack`.
    """
    like = tensors[0]
    strides = (like.numel(), *like.stride())
    stack = torch.empty_strided((len(tensors), *like.shape), strides, dtype=like.dtype, device=like.device)
    for slot, tensor in zip(stack, tensors, strict=True):
        slot.copy_(tensor)
    return stack


def running_norms(learner: Learner) -> list[BatchNorm]:
    """Its batch norms that keep running statistics."""
    return [norm for norm in batch_norms(learner) if norm.mode == "running"]


def _along(values: Tensor, like: Tensor) -> Tensor:
    """`[R]` shaped to multiply `[R, ...]`."""
    return values.view(-1, *[1] * (like.dim() - 1))
