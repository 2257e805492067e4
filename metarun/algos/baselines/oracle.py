"""The oracle of MAML's sinusoid experiment: a network that is given the true parameters of each task.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017,
arXiv 1703.03400, section 5.1 (there it gets the true amplitude and phase beside x). Official
code: github cbfinn/maml (main.py, `baseline=oracle`).

Outer problem, all examples of all tasks pooled:    min_theta  mean_i L(theta, D_i and D'_i)
Inner problem:                                      none; x includes the task's parameters

    symbol   code             shape / unit
    theta    self.net         the backbone's parameters
    D, D'    support, query   x [n, 1 + p]: the input, then the task's p true parameters; y [n, d]
    L        self.loss        mean over a set's examples

The stream `oracle` has the same held-out tasks as `episodes`, with the parameters appended to x.

Differences from the paper
    - The frequency is given beside amplitude and phase, since some data sets vary it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun.layers.norm import MODES
from metarun.learner.learner import Backbone, Learner, Stage
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, Kind, Task, TaskLoss


class Oracle(Learner):
    """One network for all tasks, whose input includes each task's true parameters.

    Args:
        backbone: makes the network, `backbone(outputs=...)`, for inputs of the stream `oracle`.
        outputs: dimension of the target.
        loss: the task loss L.
    """

    batch_norm_modes: ClassVar[tuple[str, ...]] = MODES
    stages: tuple[Stage, ...] = (Stage("oracle"),)
    evaluation_stream: ClassVar[str | None] = "oracle"
    task_types: ClassVar[tuple[Kind, ...]] = ("regression",)

    def __init__(self, backbone: Backbone, outputs: int, loss: TaskLoss) -> None:
        super().__init__(loss)
        self.net = backbone(outputs=outputs)

    def adapt(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        del random_inputs  # the oracle samples nothing
        theta: dict[str, Tensor] = dict(self.net.named_parameters())
        return self.functional_predictor(self.net, theta, support)

    def meta_loss(self, task: Task, random_inputs: Any = ()) -> Tensor:
        del random_inputs
        pool = Examples(*map(torch.cat, zip(task.support, task.query, strict=True)))
        return self.loss(self.net(pool.x), pool.y)
