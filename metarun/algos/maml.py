"""MAML and first-order MAML.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017,
arXiv 1703.03400. Official code: github cbfinn/maml (maml.py, main.py).

Inner problem, S steps on the support set D:    theta_0 = theta
                                                theta_{k+1} = theta_k - alpha grad L(theta_k, D)       (eq. 1)
Outer problem, over tasks with query sets D':   min_theta  mean_i L(theta_S(theta, D_i), D'_i)         (eq. 2)

First order (section 5.2): the inner gradient counts as a constant, so that the outer gradient is that of the
query loss at theta_S.

    symbol   code             shape / unit
    theta    self.net         the backbone's parameters
    alpha    self.inner_lr    0-dim; the same for all parameters and steps
    S        inner_steps      steps in training; `eval_steps` at test
    L        self.loss        mean over a set's examples
    (eq. 1 is spelt out in inner_loop.py, which the baselines fine-tune with too; eq. 2 is Learner.meta_loss)

Differences from the paper
    - The outer optimizer, its schedule and clipping are the run's (`optimizer`), Adam 1e-3 as in the paper by
      default.
    - L is a mean over examples. The official classification loss is divided once more by the number of shots,
      so its alpha for 5 shots compares to a fifth of ours.
    - The outer loss is the mean over tasks, as in the official code; the paper's eq. 2 has the sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from metarun.learner.gradient_descent import descend
from metarun.learner.learner import Backbone, Learner, require_counts
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss


class MAML(Learner):
    """Learns an initialisation from which a few gradient steps solve a task.

    Args:
        backbone: makes the network, `backbone(outputs=...)`.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        inner_lr: alpha.
        inner_steps: S in training.
        eval_steps: steps at which the headline is measured.
        first_order: drop the derivative of the inner gradient.
    """

    inner_lr: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        inner_lr: float,
        inner_steps: int,
        eval_steps: int,
        first_order: bool,
    ) -> None:
        super().__init__(loss)
        require_counts(inner_steps=inner_steps, eval_steps=eval_steps)
        self.net = backbone(outputs=outputs)
        self.register_hyperparameter("inner_lr", inner_lr)
        self.inner_steps, self.eval_steps = inner_steps, eval_steps
        self.first_order = first_order

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # draws nothing
        return descend(self, self.net, support, steps, self.inner_lr, self.first_order)  # eq. 1
