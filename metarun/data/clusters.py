"""Classification of points about class centres, drawn anew for each task: the quickest few-shot task there is.

c_k ~ N(0, I_d) for each class k of a task, x = c_k + noise N(0, I_d). No class comes twice, so nothing of a class can
be learned, only how to compare. It calibrates learners with a memory in a minute or two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarun.data.image_tasks import check_whole
from metarun.tasks import Batch, Examples, Presentations, Split, Task, TaskSet


class Clusters(TaskSet):
    """Draws points about centres. All parts draw from the same distribution, held-out tasks by seeds of their own.

    Args:
        dimension: d.
        noise: standard deviation about the centre.
        ways, shots, queries: classes of a task, support and query points per class, in all parts.
        instances: points of each class in a task of the stream `sequences`, more than `shots`.
        device: where tasks are drawn.

    Raises:
        ValueError: a count that is too small, noise below 0, or no more instances than shots.
    """

    kind = "classification"
    streams = ("episodes", "sequences")
    fusable_args = ("noise",)

    def __init__(
        self,
        dimension: int,
        noise: float,
        ways: int,
        shots: int,
        queries: int,
        instances: int,
        device: torch.device | str,
    ) -> None:
        counts = {"dimension": dimension, "ways": ways, "shots": shots, "queries": queries, "instances": instances}
        least = {"ways": 2, "instances": shots + 1 if isinstance(shots, int) else 2}
        for name, value in counts.items():
            check_whole(name, value, least.get(name, 1))
        if noise < 0:
            raise ValueError(f"data.noise must be at least 0; got {noise}")
        self.dimension, self.noise, self.ways, self.shots = dimension, noise, ways, shots
        self.queries, self.instances = queries, instances
        self.device = torch.device(device)

    def in_shape(self, stream: str = "episodes") -> tuple[int, ...]:
        del stream  # points in all
        return (self.dimension,)

    def outputs(self, split: Split, stream: str = "episodes") -> int:
        del split, stream  # classes of a task in all
        return self.ways

    def describe(self) -> dict[str, Any]:
        return {"ways": self.ways, "shots": self.shots, "queries": self.queries, "partition": None}

    def sample(self, split: Split, stream: str, tasks: int, generator: torch.Generator) -> Batch:
        del split  # one distribution
        if stream not in self.streams:
            raise ValueError(f"stream: wanted one of {', '.join(self.streams)}, got {stream!r}")
        of_each = self.instances if stream == "sequences" else self.shots + self.queries
        x = self._points(tasks, of_each, generator)  # [T, ways, of_each, d]
        label = torch.arange(self.ways, device=self.device)
        if stream == "sequences":
            order = torch.rand(tasks, self.ways * of_each, generator=generator, device=self.device).argsort(1)
            y = order // of_each
            shown = x.flatten(1, 2).gather(1, order.unsqueeze(-1).expand(-1, -1, self.dimension))
            member = y.unsqueeze(-1) == label
            return Presentations(shown, y, (member.cumsum(1) * member).sum(-1) == self.shots + 1)
        sets = [
            Examples(points.flatten(1, 2), label.repeat_interleave(points.shape[2]).repeat(tasks, 1))
            for points in (x[:, :, : self.shots], x[:, :, self.shots :])
        ]
        return Task(*sets)

    def _points(self, tasks: int, of_each: int, generator: torch.Generator) -> Tensor:
        drawn = torch.randn(tasks, self.ways, 1 + of_each, self.dimension, generator=generator, device=self.device)
        return drawn[:, :, :1] + self.noise * drawn[:, :, 1:]
