"""Replicas: R trainings that differ only in seed or in 0-dim numbers, run as one program.

Parameters and buffers are stacked `[R, ...]`; `vmap` over replicas goes around `vmap` over tasks; one element-wise
optimizer steps the stacks. Each replica keeps a learner, optimizers and generators of its own, whose tensors are
views of its slot in the stacks: it is saved, resumed and tested like a training of its own, and its numbers are
those of one, to rounding.

Each replica's own: initial weights, tasks, random inputs, hyperparameters, outer learning rate, gradient clipping, NaN
guard, running statistics. Shared: the program, the iteration, the shapes.

Any learner can be fused whose tasks go through `vmap`, whose state is parameters and buffers that change in the outer
step only, and whose optimizers are element-wise (`fusion_blocker`): any number of inner steps, first or second order,
every mode of batch norm, networks with convolutions.

Micro-batches bound memory: of tasks, as everywhere, and of replicas. A forward and backward pass takes one
micro-batch of replicas; gradients gather in the stacks, and the optimizer steps all at once. A micro-batch of one is
not mapped over replicas: it costs what a training of its own costs, where on a CPU a mapped convolution, which goes in
groups, may cost more; so `Device.replicas_at_once` has a rule.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils import _pytree as pytree

from metarun.layers.norm import BatchNorm, batch_norms
from metarun.learner.learner import Learner
from metarun.tasks import Batch, TaskSet
from metarun.training.loop import TrainState
from metarun.training.meta_optimizer import MetaOptimizer

# Each entry of a step depends on that entry's gradients alone, and is proportional to the learning rate.
ELEMENT_WISE = (
    *(torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam),
    *(torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad),
)

Statistics = list[list[tuple[Tensor, Tensor]]]  # of each norm in mode `running`: mean and variance `[n, channels]`

COUNTS = ("step", "mu_product")  # what these optimizers keep of the number of steps: one for all entries, and replicas


def fusion_blocker(training: TrainState) -> str | None:
    """Why this training cannot be one of several replicas; None where it can."""
    learner = training.learner
    if not learner.stages:
        return "it is not trained"
    if not learner.vectorized:
        return "it goes task after task"
    if not learner.fusable:
        return "it changes state outside the outer step"
    for optimizer in training.optimizers.values():
        if not isinstance(optimizer, ELEMENT_WISE):
            return f"{type(optimizer).__name__} does not step each entry by itself"
    return None


class BackwardResult(NamedTuple):
    """What n replicas made of a micro-batch of tasks: meta-losses `[n, T]`, norms' statistics, gradients `[n, ...]`.

    A gradient is that of each replica's mean over all of its tasks, by name; None: no part in the losses.
    """

    losses: Tensor
    statistics: Statistics
    gradient: dict[str, Tensor | None]


Program = Callable[..., BackwardResult]


class MicroBatch(NamedTuple):
    """Replicas that go through the program together: which, and a learner whose tensors are their slots of the stacks.

    Its parameters `[members, ...]` are leaves, so that gradients are their own; its `after_step` is theirs.
    """

    members: slice
    learner: Learner


class Replicas:
    """R trainings in one program. While it lives, the trainings' learners hold views of its stacks.

    Args:
        trainings: of learners of one class and shape, all at the same iteration, none with a
            `fusion_blocker`.
        data: each training's tasks; the same object where they are the same.
        meta_optimizer: scheduler, clipping and optimizer of all of them.
        size: at most so many replicas in one forward and backward pass; None: all.
        active: which of them are trained; the others only hold a place. None: all.

    Raises:
        ValueError: no training, different iterations, one that cannot be fused, or a size below 1.
    """

    def __init__(
        self,
        trainings: Sequence[TrainState],
        data: Sequence[TaskSet],
        meta_optimizer: MetaOptimizer,
        size: int | None = None,
        active: Iterable[int] | None = None,
    ) -> None:
        if not trainings or len(trainings) != len(data):
            raise ValueError("replicas need at least one training, and a task set for each")
        if len({training.iteration for training in trainings}) > 1:
            raise ValueError("replicas must stand at the same iteration")
        for training in trainings:
            if (reason := fusion_blocker(training)) is not None:
                raise ValueError(f"cannot be fused: {reason}")
        if size is not None and size < 1:
            raise ValueError(f"replicas go through the program at least one at a time; got {size}")
        self.trainings, self.data, self.meta_optimizer = list(trainings), list(data), meta_optimizer
        self.size = min(size or len(trainings), len(trainings))
        self.active = set(range(len(trainings)) if active is None else active)
        self.learner = copy.deepcopy(trainings[0].learner)  # its tensors become the stacks
        self._micro_batches = [MicroBatch(slice(0, len(self)), self.learner)]
        if self.size < len(self):
            self._micro_batches = [
                MicroBatch(slice(at, at + self.size), copy.deepcopy(self.learner))
                for at in range(0, len(self), self.size)
            ]
        self._stack()
        self.optimizers = meta_optimizer.build(self.learner)
        self._rates = {name: self._initial_rates(name) for name in self.optimizers}
        self.gather_optimizer_state()
        self._gathered: list[tuple[Learner, Statistics, int]] = []

    def __len__(self) -> int:
        return len(self.trainings)

    @property
    def iteration(self) -> int:
        return self.trainings[min(self.active, default=0)].iteration

    # -------------------------------------------------------------------------------------------- the stacks

    def _stack(self) -> None:
        """Stack parameters and buffers, and make the tensors of each learner and micro-batch views of the slots."""
        own = [tensors_of(training.learner) for training in self.trainings]
        parts = [(part.members, tensors_of(part.learner)) for part in self._micro_batches]
        for name, tensor in self.state().items():
            tensor.data = stacked([tensors[name].detach() for tensors in own])
            for r, tensors in enumerate(own):
                tensors[name].data = tensor.data[r]
            for members, tensors in parts:
                tensors[name].data = tensor.data[members]

    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, `[R, ...]`."""
        return tensors_of(self.learner)

    def active_micro_batches(self) -> list[MicroBatch]:
        """The micro-batches with a replica that is active."""
        return [part for part in self._micro_batches if self.active & set(range(len(self))[part.members])]

    def _pairs(self, name: str) -> Iterator[tuple[list[nn.Parameter], nn.Parameter]]:
        """The replicas' parameters and their stack, for each parameter of the optimizer `name`."""
        stacks = [p for group in self.optimizers[name].param_groups for p in group["params"]]
        own = [
            [p for group in training.optimizers[name].param_groups for p in group["params"]]
            for training in self.trainings
        ]
        yield from zip(map(list, zip(*own, strict=True)), stacks, strict=True)

    def _initial_rates(self, name: str) -> list[float]:
        return [initial_rate(training.optimizers[name]) for training in self.trainings]

    def gather_optimizer_state(self) -> None:
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

    def scatter_optimizer_state(self) -> None:
        """Give each active replica's optimizers a copy of their part of the state: before it is saved."""
        for name, optimizer in self.optimizers.items():
            for own, stack in self._pairs(name):
                state = optimizer.state.get(stack, {})
                for r in self.active:
                    self.trainings[r].optimizers[name].state[own[r]] = {
                        key: value[r].clone() if isinstance(value, Tensor) and key not in COUNTS else value
                        for key, value in state.items()
                    }

    def detach(self, r: int) -> None:
        """Give replica r tensors of its own, as they are now; its slot goes on with another's values."""
        self.active.discard(r)
        learner = self.trainings[r].learner
        for tensor in (*learner.parameters(), *learner.buffers()):
            tensor.data = tensor.data.clone()
        if self.active:
            for stack in self.state().values():
                stack.data[r] = stack.data[min(self.active)]
                if stack.grad is not None:
                    stack.grad[r] = 0

    def drop_diverged(self, losses: list[float]) -> dict[int, float]:
        """Detach the active replicas whose loss is NaN or infinite; returns them with it."""
        failed = {r: losses[r] for r in sorted(self.active) if not math.isfinite(losses[r])}
        for r in failed:
            self.detach(r)
        return failed

    # -------------------------------------------------------------------------------------------- the program

    def program(self) -> Program:
        """What n replicas do with a micro-batch of tasks.

        It makes a `BackwardResult` of `(state, batch, random_inputs, objective, tasks)`; `tasks`: of all micro-batches.

        It may be compiled (metarun/training/gradients.py).
        """
        learner, norms = self.learner, running_norms(self.learner)
        trained = [name for name, parameter in learner.named_parameters() if parameter.requires_grad]

        def step(
            state: dict[str, Tensor], batch: Batch, random_inputs: Any, objective: str, tasks: int
        ) -> BackwardResult:
            def one(state: dict[str, Tensor], batch: Batch, random_inputs: Any) -> tuple[Tensor, Statistics]:
                losses = functional_call(learner, state, (batch, random_inputs, objective))
                return losses, [norm.pop_stats() for norm in norms]

            losses, statistics = over_replicas(one, state, batch, random_inputs)
            gradients = torch.autograd.grad(losses.sum() / tasks, [state[n] for n in trained], allow_unused=True)
            return BackwardResult(losses.detach(), statistics, dict(zip(trained, gradients, strict=True)))

        return step

    def sample(self, stream: str, tasks: int) -> tuple[Batch, Any]:
        """Each replica's tasks and random inputs, `[R, T, ...]`, from its own generators."""
        self.learner.ways = self.data[0].outputs("train", stream)
        generators = [training.generators[f"tasks/{stream}"] for training in self.trainings]
        batches, order = [], []
        for data, members in self.by_data():
            batches.append(data.sample_replicas("train", stream, tasks, [generators[r] for r in members]))
            order += members
        if len(batches) == 1:
            batch = batches[0]
        else:
            place = torch.tensor(order).argsort()
            batch = pytree.tree_map(lambda *leaves: torch.cat(leaves)[place.to(leaves[0].device)], *batches)
        return self.learner.to_dtype((batch, self._random_inputs(batch)))

    def _random_inputs(self, batch: Batch) -> Any:
        if type(self.learner).random_inputs is Learner.random_inputs:
            return ()
        shapes = pytree.tree_map(lambda leaf: leaf[0], batch)  # random inputs depend on nothing else of a batch
        each = [
            t.learner.random_inputs(shapes, t.learner.inner_steps, t.generators["random_inputs"])
            for t in self.trainings
        ]
        return pytree.tree_map(lambda *leaves: torch.stack(leaves), *each)

    def by_data(self) -> Iterator[tuple[TaskSet, list[int]]]:
        """Each task set, with the replicas that draw from it."""
        for data in dict.fromkeys(self.data):
            yield data, [r for r, own in enumerate(self.data) if own is data]

    # ------------------------------------------------------------------------------------------- the outer step

    def backward(
        self,
        program: Program,
        batch: Batch,
        random_inputs: Any,
        objective: str,
        task_micro_batch: int | None,
    ) -> list[float]:
        """Accumulate each replica's gradient of its mean loss over tasks, by micro-batches; returns those means.

        Args:
            program: as `program` gives it.
            batch, random_inputs: `[R, T, ...]`.
            objective: of the stage.
            task_micro_batch: at most that many tasks of each replica in one forward pass.
        """
        tasks = pytree.tree_leaves(batch)[0].shape[1]
        size = task_micro_batch or tasks
        total = torch.zeros(len(self), dtype=torch.float64)
        for members, learner in self.active_micro_batches():
            for at in range(0, tasks, size):
                rows = (members, slice(at, at + size))
                part, part_random_inputs = pytree.tree_map(lambda leaf, rows=rows: leaf[rows], (batch, random_inputs))
                losses, statistics, gradient = program(tensors_of(learner), part, part_random_inputs, objective, tasks)
                total[members] += (losses.sum(1) / tasks).double().cpu()
                self._gathered.append((learner, statistics, losses.shape[1]))
                self._collect(members, gradient)
        return total.tolist()

    def _collect(self, members: slice, gradient: dict[str, Tensor | None]) -> None:
        """Add a micro-batch's gradients `[members, ...]` to the stacks'."""
        stacks = dict(self.learner.named_parameters())
        for name, value in gradient.items():
            if value is not None:
                stack = stacks[name]
                if stack.grad is None:
                    stack.grad = torch.zeros_like(stack)
                stack.grad[members] += value

    def after_step(self) -> None:
        """As `Learner.after_step`, of all replicas: on the slots of a micro-batch together, element by element."""
        for learner, statistics, tasks in self._gathered:
            for norm, found in zip(running_norms(learner), statistics, strict=True):
                norm.gathered += [(mean, var, tasks) for mean, var in found]
        self._gathered.clear()
        for part in self._micro_batches:
            part.learner.after_step()

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
        if self.meta_optimizer.max_grad_value is not None:
            for gradient in gradients:
                gradient.clamp_(-self.meta_optimizer.max_grad_value, self.meta_optimizer.max_grad_value)
        if self.meta_optimizer.max_grad_norm is not None:
            norms = torch.stack([g.reshape(len(self), -1).norm(dim=1) for g in gradients]).norm(dim=0)
            scale = (self.meta_optimizer.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                gradient.mul_(_along(scale, gradient))


def over_replicas(f: Callable, *stacks: Any) -> Any:
    """`f` of each replica; every leaf of the arguments and of the result leads with their number.

    One alone is not mapped, which would only cost.
    """
    if pytree.tree_leaves(stacks)[0].shape[0] > 1:
        return vmap(f, randomness="error")(*stacks)
    result = f(*pytree.tree_map(lambda leaf: leaf.squeeze(0), stacks))
    return pytree.tree_map(lambda leaf: leaf.unsqueeze(0), result)


def initial_rate(optimizer: torch.optim.Optimizer) -> float:
    """Its learning rate before any scheduler."""
    settings = optimizer.param_groups[0]
    return float(settings.get("initial_lr", settings["lr"]))


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
