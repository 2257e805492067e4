"""Is an inner loop that a learner's file writes out the shared one, `learner/gradient_descent.py`, to the last bit?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metarun.learner.learner import Learner
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, Task

STEPS = 3
DTYPES = [torch.float64, torch.float32]
KINDS = ["mlp", "conv4", "conv4_support"]  # the last: queries normalised by the support set

Trajectory = Callable[[Examples, Any], Iterator[Predictor]]


def backbone_of(kind: str, backbones: dict[str, partial]) -> tuple[str, partial]:
    """Kind of task and backbone of one of `KINDS`."""
    if kind == "conv4_support":
        return "conv4", partial(backbones["conv4"], norm="support")
    return kind, backbones[kind]


def outcome(learner: Learner, batch: Task, random_inputs: Any, trajectory: Trajectory) -> tuple[Tensor, list[Tensor]]:
    """Predictions of queries after each step, `[T, steps + 1, ...]`, and the meta-gradient after the last one."""

    def predictions(task: Task, random_inputs: Any) -> Tensor:
        return torch.stack([predict(task.query.x) for predict in trajectory(task.support, random_inputs)])

    made = learner.map_tasks(predictions, batch, random_inputs)
    losses = [learner.loss(prediction[-1], y) for prediction, y in zip(made, batch.query.y, strict=True)]
    return made.detach(), list(torch.autograd.grad(torch.stack(losses).mean(), list(learner.parameters())))


def assert_is_descend(learner: Learner, batch: Task, shared: Trajectory, random_inputs: Any = ()) -> None:
    """Assert that `learner.trajectory` equals `shared` exactly, under vmap and task by task."""
    names = [name for name, _ in learner.named_parameters()]
    for learner.vectorized in (True, False):
        ours, our_gradient = outcome(learner, batch, random_inputs, lambda s, r: learner.trajectory(s, STEPS, r))
        theirs, their_gradient = outcome(learner, batch, random_inputs, shared)
        assert ours.shape[1] == STEPS + 1
        for step in range(STEPS + 1):
            assert torch.equal(ours[:, step], theirs[:, step]), f"predictions differ after step {step}"
        assert not torch.equal(ours[:, -1], ours[:, -2]), "nothing moves"
        for name, a, b in zip(names, our_gradient, their_gradient, strict=True):
            assert torch.equal(a, b), f"the meta-gradient of {name} differs"
        assert any(gradient.abs().max() > 0 for gradient in our_gradient), "the meta-gradient is zero"
