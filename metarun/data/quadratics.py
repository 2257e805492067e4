"""Quadratic functions to be minimised, as a regression: the loss of a linear network is the function.

A task is f(theta) = || W theta - y ||^2 with W `[d, d]` and y `[d]`, all entries N(0, 1), drawn anew for each task
(Andrychowicz et al., NIPS 2016, arXiv 1606.04474, section 3.1). Examples are x_i = sqrt(d) W_i and sqrt(d) y_i, one
for each row, so that the MEAN squared error of x^T theta, a linear network without bias (`backbone=linear`), is
f(theta).

The query set is the support set: what is minimised and what is reported is the same function. So the metric `mse`
after k steps is f(theta_k), and with `run.curve_steps=100` the curve in the result is the paper's.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch

from metarun.checks import require_choice, require_int
from metarun.tasks import Batch, Examples, Split, Task, TaskSet


class Quadratics(TaskSet):
    """Quadratic functions. All splits draw from the same distribution, held-out tasks with seeds of their own.

    Args:
        dimension: d, the number of coordinates of theta and of examples of a task.
        device: where tasks are drawn.

    Raises:
        ValueError: a dimension below 1.
    """

    kind = "regression"
    streams = ("episodes",)

    def __init__(self, dimension: int, device: torch.device | str) -> None:
        require_int("data", minimum=1, dimension=dimension)
        self.dimension = dimension
        self.device = torch.device(device)

    def in_shape(self, stream: str = "episodes") -> tuple[int, ...]:
        del stream  # there is only one
        return (self.dimension,)

    def outputs(self, split: Split, stream: str = "episodes") -> int:
        del split, stream  # one value of each row
        return 1

    def describe(self) -> dict[str, Any]:
        return {"ways": None, "shots": self.dimension, "queries": self.dimension, "partition": None}

    def sample(self, split: Split, stream: str, tasks: int, generator: torch.Generator) -> Batch:
        del split  # one distribution
        require_choice("stream", stream, self.streams)
        d = self.dimension
        rows = sqrt(d) * torch.randn(tasks, d, d + 1, generator=generator, device=generator.device)  # W and y beside it
        function = Examples(rows[..., :d], rows[..., d:])
        return Task(function, function)
