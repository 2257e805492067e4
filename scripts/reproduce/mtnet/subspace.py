"""The subspace that an MT-net has learned to move in: its masks, and the directions its predictions change in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import metarun
from metarun.data.polynomial import Polynomial
from metarun.sampling import stream_generator
from metarun.tasks import Task
from scripts.reproduce.mtnet.results import RunResult

DOMINANT = 0.05  # a direction is dominant if its singular value is at least this share of their sum


class Subspace(NamedTuple):
    """The subspace of one MT-net.

    Attributes:
        order: of the polynomials it was trained on.
        masks: mean probability that a unit is updated, by layer.
        shares: of the first four singular values, each over the sum of all.
        mse: the run's headline.
    """

    order: int
    masks: dict[str, float]
    shares: list[float]
    mse: float | None

    @property
    def dimensions(self) -> int:
        """How many directions are dominant."""
        return sum(share >= DOMINANT for share in self.shares)


def subspace(run: RunResult) -> Subspace:
    """A finished run's subspace: its masks' probabilities, and the spectrum of prediction changes over 200 tasks."""
    learner = metarun.load(run.folder).learner
    arguments = {key: value for key, value in run.config["data"].items() if key != "_target_"}
    generator = stream_generator("cpu", "subspace")
    batch, _ = Polynomial(**arguments, device="cpu").curves(200, 100, generator)
    random_inputs = learner.random_inputs(batch, 1, generator)

    def change(task: Task, random_inputs: object) -> Tensor:
        before, after = (predictor(task.query.x) for predictor in learner.trajectory(task.support, 1, random_inputs))
        assert isinstance(before, Tensor) and isinstance(after, Tensor)
        return (after - before).squeeze(1)

    with torch.no_grad():
        singular = torch.linalg.svdvals(learner.map_tasks(change, batch, random_inputs))
        diagnostics = learner.diagnostics()
    masks = {name.removeprefix("mask/"): float(v) for name, v in diagnostics.items() if name.startswith("mask/")}
    return Subspace(run.config["data"]["order"], masks, (singular / singular.sum())[:4].tolist(), run.mean)
