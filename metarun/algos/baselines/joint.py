"""Joint training, the "pretrained" baseline of MAML's sinusoid experiment.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017,
arXiv 1703.03400, section 5.1 (one network regresses sinusoids drawn at random, and is then fine-tuned on the K
points of a test task with a step size tuned for it). Official code: github cbfinn/maml (main.py).

Outer problem, all examples of all tasks pooled:    min_theta  mean_i L(theta, D_i and D'_i)
Inner problem, at test only, theta_0 = theta:       theta_{k+1} = theta_k - alpha grad L(theta_k, D)

    symbol   code             shape / unit
    theta    self.net         the backbone's parameters
    D, D'    support, query   x [n, ...], y [n, d]
    alpha    self.inner_lr    0-dim; the fine-tuning's learning rate
    S        eval_steps       fine-tuning steps at which the headline metric is measured
    L        self.loss        mean over a set's examples

Regression only: class labels are assigned anew in each task, so pooled tasks give one image many labels, and the
network learns that all ways are equally likely.

Differences from the paper
    - The paper trains on newly sampled points; here they come as episodes, support and query together.
    - The paper tunes the step size of the fine-tuning on validation tasks; here it is `algo.inner_lr`.
    - Batch norm, where the backbone has it, uses each task's statistics, not the pool's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun.checks import NonNegative, require_int
from metarun.layers.norm import MODES
from metarun.learner.gradient_descent import descend
from metarun.learner.learner import Backbone, Learner
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, Kind, Task, TaskLoss


class Joint(Learner):
    """One network for all tasks, fine-tuned on each task at test.

    Args:
        backbone: makes the network, `backbone(outputs=...)`.
        outputs: dimension of the target.
        loss: the task loss L.
        inner_lr: alpha.
        eval_steps: fine-tuning steps at which the headline metric is measured.

    Raises:
        ValueError: `eval_steps` is not an integer of at least 0.
    """

    batch_norm_modes: ClassVar[tuple[str, ...]] = MODES
    task_types: ClassVar[tuple[Kind, ...]] = ("regression",)
    inner_lr: Tensor

    def __init__(
        self, backbone: Backbone, outputs: int, loss: TaskLoss, inner_lr: NonNegative, eval_steps: int
    ) -> None:
        super().__init__(loss)
        require_int("algo", eval_steps=eval_steps)
        self.net = backbone(outputs=outputs)
        self.register_hyperparameter("inner_lr", inner_lr)
        self.eval_steps = eval_steps

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # joint training samples nothing
        return descend(self, self.net, support, steps, self.inner_lr, first_order=True)

    def meta_loss(self, task: Task, random_inputs: Any = ()) -> Tensor:
        del random_inputs
        pool = Examples(*map(torch.cat, zip(task.support, task.query, strict=True)))
        return self.loss(self.net(pool.x), pool.y)
