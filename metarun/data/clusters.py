"""Classification of points about class centres that are drawn anew for each task: the quickest few-shot task.

c_k ~ N(0, I_d) for each class k of a task, x = c_k + noise N(0, I_d). No class comes twice, so a learner cannot learn
the classes, only how to compare. It calibrates learners with a memory in a minute or two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarun.checks import require_choice, require_int, require_non_negative
from metarun.tasks import Batch, Examples, Presentations, Split, Task, TaskSet


class Clusters(TaskSet):
    """Points about centres. All splits draw from the same distribution, held-out tasks with seeds of their own.

    Args:
        dimension: d.
        noise: standard deviation about the centre.
        ways, shots, queries: classes of a task, support and query points per class, in all splits.
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
        require_int("data", minimum=1, dimension=dimension, shots=shots, queries=queries)
        require_int("data", minimum=2, ways=ways)
        require_int("data", minimum=shots + 1, instances=instances)
        require_non_negative("data", noise=noise)
        self.dimension, self.noise, self.ways, self.shots = dimension, noise, ways, shots
        self.queries, self.instances = queries, instances
        self.device = torch.device(device)

    def in_shape(self, stream: str = "episodes") -> tuple[int, ...]:
        del stream  # all are of points
        return (self.dimension,)

    def outputs(self, split: Split, stream: str = "episodes") -> int:
        del split, stream  # classes of a task everywhere
        return self.ways

    def describe(self) -> dict[str, Any]:
        return {"ways": self.ways, "shots": self.shots, "queries": self.queries, "partition": None}

    def sample(self, split: Split, stream: str, tasks: int, generator: torch.Generator) -> Batch:
        del split  # one distribution
        require_choice("stream", stream, self.streams)
        per_class = self.instances if stream == "sequences" else self.shots + self.queries
        x = self._points(tasks, per_class, generator)  # [T, ways, per_class, d]
        label = torch.arange(self.ways, device=generator.device)
        if stream == "sequences":
            order = torch.rand(tasks, self.ways * per_class, generator=generator, device=generator.device).argsort(1)
            y = order // per_class
            shown = x.flatten(1, 2).gather(1, order.unsqueeze(-1).expand(-1, -1, self.dimension))
            member = y.unsqueeze(-1) == label
            return Presentations(shown, y, (member.cumsum(1) * member).sum(-1) == self.shots + 1)
        sets = [
            Examples(points.flatten(1, 2), label.repeat_interleave(points.shape[2]).repeat(tasks, 1))
            for points in (x[:, :, : self.shots], x[:, :, self.shots :])
        ]
        return Task(*sets)

    def _points(self, tasks: int, per_class: int, generator: torch.Generator) -> Tensor:
        normal = torch.randn(
            tasks, self.ways, 1 + per_class, self.dimension, generator=generator, device=generator.device
        )
        return normal[:, :, :1] + self.noise * normal[:, :, 1:]
