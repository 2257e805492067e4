"""Sinusoids with a finite set of training tasks, seen again and again: how much a learner overfits to its tasks.

BMAML's regression (Yoon et al. 2018; github jsikyoon/bmaml data_generator.py): the points and the noise of a training
task are fixed too, and so is which of the points are its support set.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarun.checks import require_choice, require_int
from metarun.data.curves import Range
from metarun.data.sinusoid import Sinusoid
from metarun.sampling import stream_generator
from metarun.tasks import Batch, DataError, Split


class FiniteSinusoid(Sinusoid):
    """A finite set of training tasks; an outer step uses some, each at most once. Held-out tasks are all new.

    Args:
        amplitude, phase, frequency, x: uniform ranges (lowest, highest); phase in radians.
        noise: standard deviation of the noise on y, as a share of the task's amplitude. Held-out query sets have none.
        tasks: number of training tasks.
        tasks_seed: decides which ones.
        shots, queries, train_queries: points of the support set and of the query set (train_queries: in training).
        device: where tasks are drawn.

    Raises:
        ValueError: a range that is not (lowest, highest), or a count below 1.
    """

    def __init__(
        self,
        amplitude: Range,
        phase: Range,
        frequency: Range,
        x: Range,
        noise: float,
        tasks: int,
        tasks_seed: int,
        shots: int,
        queries: int,
        train_queries: int,
        device: torch.device | str,
    ) -> None:
        super().__init__(amplitude, phase, frequency, x, noise, shots, queries, train_queries, device)
        require_int("data", minimum=1, tasks=tasks)
        self.tasks, self.tasks_seed = tasks, tasks_seed
        self._training: tuple[Tensor, Tensor, Tensor] | None = None

    def training_tasks(self) -> tuple[Tensor, Tensor, Tensor]:
        """Parameters `[tasks, 3, 1]`, x and y `[tasks, points, 1]` of all training tasks."""
        if self._training is None:
            generator = stream_generator(self.device, "training tasks", self.tasks_seed)
            self._training = self._points(self.tasks, self.shots + self.train_queries, [generator])
        return self._training

    def _sample(self, split: Split, stream: str, tasks: int, generators: Sequence[torch.Generator]) -> Batch:
        require_choice("stream", stream, self.streams)
        if split == "train":
            if tasks > self.tasks:
                raise DataError(
                    f"data.tasks must be at least run.meta_batch_size={tasks}, as an outer step uses a task once; "
                    f"got {self.tasks}"
                )
            order = [torch.rand(self.tasks, generator=g, device=g.device).argsort()[:tasks] for g in generators]
            parameters, x, y = pytree.tree_map(lambda leaf: leaf[torch.cat(order)], self.training_tasks())
        else:
            parameters, x, y = self._points(tasks, self.shots + self.queries, generators)
            y[:, self.shots :] = self.curve(parameters, x[:, self.shots :])
        return self._task(stream, parameters, x, y)

    def _points(self, tasks: int, points: int, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor, Tensor]:
        parameters, x = self._uniform(tasks, points, generators)
        noise = torch.cat([torch.randn((tasks, points, 1), generator=g, device=g.device) for g in generators])
        return parameters, x, self.curve(parameters, x) + self.noise * parameters[:, :1] * noise
