"""Sinusoid regression: y = A sin(f x - phi), a new amplitude, phase and frequency for each task.

`data=sinusoid` is MAML's setting (frequency 1; Finn et al. 2017, section 5.1; cbfinn/maml data_generator.py),
`data=sinusoid_varied` Meta-SGD's and MT-net's (frequency 0.8 to 1.2; yoonholee/MT-net data_generator.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarun.tasks.task import Batch, Examples, Part, Task, TaskSet

Range = tuple[float, float]


class Sinusoid(TaskSet):
    """Draws sinusoids; all parts draw from the same distribution, held-out tasks from their own seeds.

    Streams
        episodes: x `[n, 1]`, y `[n, 1]`.
        oracle: the same tasks with the true amplitude, phase and frequency beside x: `[x, A, phi, f]`.

    Args:
        amplitude, phase, frequency, x: uniform ranges (lowest, highest); phase in radians.
        noise: standard deviation of the noise on y.
        shots, queries, train_queries: points of the support set and of the query set (train_queries: in training).
        device: where tasks are drawn.

    Raises:
        ValueError: a range that is not (lowest, highest), or a count below 1.
    """

    kind = "regression"
    offers = ("episodes", "oracle")

    def __init__(
        self,
        amplitude: Range,
        phase: Range,
        frequency: Range,
        x: Range,
        noise: float,
        shots: int,
        queries: int,
        train_queries: int,
        device: torch.device | str,
    ) -> None:
        self.ranges = {"amplitude": amplitude, "phase": phase, "frequency": frequency, "x": x}
        for name, pair in self.ranges.items():
            if len(pair) != 2 or not pair[0] <= pair[1]:
                raise ValueError(f"data.{name} must be two numbers, the lowest first; got {list(pair)}")
        for name, count in {"shots": shots, "queries": queries, "train_queries": train_queries}.items():
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"data.{name} must be a whole number of at least 1; got {count!r}")
        if noise < 0:
            raise ValueError(f"data.noise must be at least 0; got {noise}")
        self.noise, self.shots, self.queries, self.train_queries = noise, shots, queries, train_queries
        self.device = torch.device(device)

    def in_shape(self, stream: str = "episodes") -> tuple[int, ...]:
        return (4,) if stream == "oracle" else (1,)

    def outputs(self, part: Part, stream: str = "episodes") -> int:
        del part, stream  # one value y everywhere
        return 1

    def describe(self) -> dict[str, Any]:
        return {"ways": None, "shots": self.shots, "queries": self.queries, "split": None}

    def draw(self, part: Part, stream: str, tasks: int, generator: torch.Generator) -> Batch:
        if stream not in self.offers:
            raise ValueError(f"the sinusoid has no stream {stream!r}; it offers {', '.join(self.offers)}")
        queries = self.train_queries if part == "train" else self.queries
        points = self.shots + queries
        # One call to the generator for all of it: a meta-batch costs as much as its fixed overhead.
        uniform = torch.rand(tasks, 3 + points, 1, device=self.device, generator=generator)
        low, high = self._bounds(uniform.device)
        parameters = low[:3] + uniform[:, :3] * (high - low)[:3]  # [T, 3, 1]: A, phi, f
        x = low[3] + uniform[:, 3:] * (high - low)[3]  # [T, points, 1]
        y = self.curve(parameters, x)
        if self.noise:
            y = y + self.noise * torch.randn(y.shape, device=self.device, generator=generator)
        if stream == "oracle":
            x = torch.cat([x, parameters.transpose(1, 2).expand(-1, points, -1)], dim=2)
        n = self.shots
        return Task(Examples(x[:, :n], y[:, :n]), Examples(x[:, n:], y[:, n:]))

    @staticmethod
    def curve(parameters: Tensor, x: Tensor) -> Tensor:
        """y `[T, n, 1]` without noise, of `parameters [T, 3, 1]` (A, phi, f) at x `[T, n, 1]`."""
        amplitude, phase, frequency = parameters.unsqueeze(1).unbind(2)  # [T, 1, 1] each
        return amplitude * torch.sin(frequency * x - phase)

    def curves(self, tasks: int, points: int, generator: torch.Generator) -> tuple[Task, Tensor]:
        """Tasks for a picture: their support set, as query an even grid over x with noise-free y, and parameters.

        Returns:
            The tasks, query `[tasks, points, 1]`, and A, phi, f as `[tasks, 3, 1]`.
        """
        uniform = torch.rand(tasks, 3 + self.shots, 1, device=self.device, generator=generator)
        low, high = self._bounds(uniform.device)
        parameters = low[:3] + uniform[:, :3] * (high - low)[:3]
        x = low[3] + uniform[:, 3:] * (high - low)[3]
        grid = torch.linspace(*self.ranges["x"], points, device=self.device).view(1, -1, 1).expand(tasks, -1, -1)
        support = Examples(x, self.curve(parameters, x))
        return Task(support, Examples(grid, self.curve(parameters, grid))), parameters

    def _bounds(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Lowest and highest of A, phi, f and x, each `[4, 1]`."""
        bounds = torch.tensor([list(pair) for pair in self.ranges.values()], dtype=torch.float32, device=device)
        return bounds[:, :1], bounds[:, 1:]
