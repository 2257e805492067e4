"""Regression of curves y = f(x; parameters): each task has its own parameters, drawn from uniform ranges."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarun.checks import require_choice, require_int, require_non_negative, require_range
from metarun.tasks import Batch, Examples, Split, Task, TaskSet

Range = tuple[float, float]


class Curves(TaskSet):
    """One value y at each point x of a line. All splits draw from the same distribution, held-out tasks with own seeds.

    There are two streams. `episodes` has x `[n, 1]` and y `[n, 1]`; `oracle` has the same tasks with their true
    parameters beside x: `[x, parameters ...]`.

    Args:
        parameters: uniform range (lowest, highest) of each parameter of a curve, by name.
        x: uniform range of the points.
        noise: standard deviation of the noise on y.
        shots, queries, train_queries: points of the support set and of the query set (train_queries: in training).
        device: where tasks are drawn.

    Raises:
        ValueError: a range that is not (lowest, highest), a count below 1, or noise below 0.
    """

    kind = "regression"
    streams = ("episodes", "oracle")

    def __init__(
        self,
        parameters: Mapping[str, Range],
        x: Range,
        noise: float,
        shots: int,
        queries: int,
        train_queries: int,
        device: torch.device | str,
    ) -> None:
        self.ranges = {**parameters, "x": x}
        for name, bounds in self.ranges.items():
            require_range(f"data.{name}", bounds)
        require_int("data", minimum=1, shots=shots, queries=queries, train_queries=train_queries)
        require_non_negative("data", noise=noise)
        self.noise, self.shots, self.queries, self.train_queries = noise, shots, queries, train_queries
        self.device = torch.device(device)

    @abstractmethod
    def curve(self, parameters: Tensor, x: Tensor) -> Tensor:
        """y `[T, n, 1]` without noise, of `parameters [T, P, 1]` in the order of their ranges, at x `[T, n, 1]`."""

    @abstractmethod
    def title(self, parameters: list[float]) -> str:
        """A short title for a picture that says which curve it is."""

    def in_shape(self, stream: str = "episodes") -> tuple[int, ...]:
        return (len(self.ranges),) if stream == "oracle" else (1,)

    def outputs(self, split: Split, stream: str = "episodes") -> int:
        del split, stream  # one value y everywhere
        return 1

    def describe(self) -> dict[str, Any]:
        return {"ways": None, "shots": self.shots, "queries": self.queries, "partition": None}

    def sample(self, split: Split, stream: str, tasks: int, generator: torch.Generator) -> Batch:
        return self._sample(split, stream, tasks, [generator])

    def sample_replicas(self, split: Split, stream: str, tasks: int, generators: Sequence[torch.Generator]) -> Batch:
        batch = self._sample(split, stream, tasks, generators)
        return pytree.tree_map(lambda leaf: leaf.view(len(generators), tasks, *leaf.shape[1:]), batch)

    def _sample(self, split: Split, stream: str, tasks: int, generators: Sequence[torch.Generator]) -> Batch:
        """`tasks` tasks of each generator, one after the other; what depends on the draws is computed once for all."""
        require_choice("stream", stream, self.streams)
        points = self.shots + (self.train_queries if split == "train" else self.queries)
        parameters, x = self._uniform(tasks, points, generators)
        y = self.curve(parameters, x)
        if self.noise:
            shape = (tasks, *y.shape[1:])
            y = y + self.noise * torch.cat([torch.randn(shape, device=g.device, generator=g) for g in generators])
        return self._task(stream, parameters, x, y)

    def _task(self, stream: str, parameters: Tensor, x: Tensor, y: Tensor) -> Task:
        """The first `shots` points are the support set; the stream `oracle` has the parameters beside x."""
        if stream == "oracle":
            x = torch.cat([x, parameters.transpose(1, 2).expand(-1, x.shape[1], -1)], dim=2)
        n = self.shots
        return Task(Examples(x[:, :n], y[:, :n]), Examples(x[:, n:], y[:, n:]))

    def curves(self, tasks: int, points: int, generator: torch.Generator) -> tuple[Task, list[str]]:
        parameters, x = self._uniform(tasks, self.shots, [generator])
        grid = torch.linspace(*self.ranges["x"], points, device=x.device).view(1, -1, 1).expand(tasks, -1, -1)
        support = Examples(x, self.curve(parameters, x))
        titles = [self.title(values) for values in parameters[..., 0].tolist()]
        return Task(support, Examples(grid, self.curve(parameters, grid))), titles

    def _uniform(self, tasks: int, points: int, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Parameters `[T, P, 1]` and x `[T, points, 1]`, where T counts the tasks of all generators."""
        count = len(self.ranges) - 1
        # One call to a generator for everything: the fixed overhead of a call is most of a meta-batch's cost.
        shape = (tasks, count + points, 1)
        uniform = torch.cat([torch.rand(shape, device=g.device, generator=g) for g in generators])
        edges = torch.tensor(
            [list(bounds) for bounds in self.ranges.values()], dtype=torch.float32, device=uniform.device
        )
        low, high = edges[:, :1], edges[:, 1:]
        parameters = low[:count] + uniform[:, :count] * (high - low)[:count]
        return parameters, low[count] + uniform[:, count:] * (high - low)[count]
