"""ANIL, almost no inner loop.

Raghu, Raghu, Bengio, Vinyals: Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML,
ICLR 2020, arXiv 1909.09157. No official code; learn2learn has a port (github learnables/learn2learn,
examples/vision/anil_fc100.py).

Inner problem, theta = (psi, w), psi the body and w the head; S steps on the support set D, of the head alone:
    w_0 = w,    w_{k+1} = w_k - alpha grad_w L(psi, w_k; D)
Outer problem, over tasks with query sets D', of both:
    min_{psi, w}  mean_i L(psi, w_S(psi, w, D_i); D'_i)

In training and at test alike. psi does not move in the inner loop, so the support set's features are computed once.
The outer gradient reaches psi through the query set's features and, by w_S, through the support set's.

    symbol   code             shape / unit
    psi      self.body        the backbone up to its last layer
    w        self.head        its last layer, linear
    alpha    self.inner_lr    0-dim; the same for all parameters and steps
    S        inner_steps      steps in training; `eval_steps` at test
    L        self.loss        mean over a set's examples

Differences from the paper
    - The outer optimizer, its schedule and clipping are the run's (`optimizer`).
    - `first_order` is ours, as in MAML: w_S - w counts as a constant, in psi too.
    - The outer loss is the mean over tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor, nn

from metarun.learner.gradient_descent import descend
from metarun.learner.learner import Backbone, Learner, require_counts
from metarun.learner.prediction import Prediction, Predictor
from metarun.tasks import Examples, TaskLoss


class ANIL(Learner):
    """Learns features, and a head from which a few gradient steps of the head alone solve a task.

    Args:
        backbone: makes the network, `backbone(outputs=...)`, whose last layer is its `head`.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        inner_lr: alpha.
        inner_steps: S in training.
        eval_steps: steps at which the headline is measured.
        first_order: drop the derivative of the inner gradient.

    Raises:
        ValueError: steps that are no whole number of at least zero.
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
        self.body = backbone(outputs=outputs)
        self.head = cast(nn.Module, self.body.head)
        self.body.head = nn.Identity()  # the body ends in features
        self.register_hyperparameter("inner_lr", inner_lr)
        self.inner_steps, self.eval_steps = inner_steps, eval_steps
        self.first_order = first_order

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # draws nothing
        features = self.functional_predictor(self.body, dict(self.body.named_parameters()), support)
        z = cast(Tensor, features(support.x))  # [n, width]
        known = Examples(z.detach() if self.first_order else z, support.y)
        for head in descend(self, self.head, known, steps, self.inner_lr, self.first_order):
            yield _composed(head, features)


def _composed(head: Predictor, features: Predictor) -> Predictor:
    def predict(x: Tensor) -> Prediction:
        return head(cast(Tensor, features(x)))

    return predict
