"""Training from scratch on each task: what fine-tuning achieves without any meta-training.

The random initialisation that meta-learning has to beat, for example in Finn, Abbeel, Levine: Model-Agnostic
Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017, arXiv 1703.03400, section 5. Every table needs a learner
that does not learn.

Inner problem, theta_0 random:      theta_{k+1} = theta_k - alpha grad L(theta_k, D)
Outer problem:                      none

    symbol   code             shape / unit
    theta    self.net         the backbone's parameters, as initialised from the seed
    alpha    self.inner_lr    0-dim
    D        support          x [n, ...], y
    S        eval_steps       steps at which the headline metric is measured
    L        self.loss        mean over a set's examples

Differences from the paper
    - None in the method. All tasks of a run start from the same random weights; another seed gives other weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from metarun.checks import NonNegative, require_int
from metarun.learner.gradient_descent import descend
from metarun.learner.learner import Backbone, Learner, Stage
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss


class Scratch(Learner):
    """A random network, trained at test on the support set alone.

    Args:
        backbone: makes the network, `backbone(outputs=...)`.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        inner_lr: alpha.
        eval_steps: steps at which the headline metric is measured.

    Raises:
        ValueError: `eval_steps` is not an integer of at least 0.
    """

    stages: tuple[Stage, ...] = ()
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
        del random_inputs  # training from scratch samples nothing
        return descend(self, self.net, support, steps, self.inner_lr, first_order=True)
