"""MAML and first-order MAML (FOMAML): an initialisation from which a few gradient steps solve a task.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017,
arXiv 1703.03400. Official code: github cbfinn/maml (maml.py, main.py).

Inner problem, on the support set D of task T_i (section 2.2, not numbered; algorithm 2, lines 6 and 7):
    theta'_i = theta - alpha grad_theta L_{T_i}(f_theta);       more steps repeat it from theta'_i, on the same D
    L_{T_i}: squared error (eq. 2) or cross-entropy (eq. 3) over D
Outer problem, over tasks T_i with query sets D'_i (algorithm 2, line 10):
    theta <- theta - beta grad_theta sum_i L_{T_i}(f_theta'_i),    L_{T_i} over D'_i                 (eq. 1)

First order (section 5.2): the inner gradient is a constant, so that the outer gradient is that of the query loss at
theta'_i.

    symbol     code             shape / unit
    theta      self.net         the backbone's parameters; `theta` by name
    f_theta    f(theta)         inputs [n, ...] to predictions [n, outputs]
    alpha      self.inner_lr    0-dim; the same for all parameters and steps
    L_{T_i}    self.loss        mean over a set's examples; `L(theta)` on the support set
    D, D'_i    support, query   `x [n, ...]` and `y`
    beta       optimizer.lr     the run's

This file has the inner problem. Of eq. 1, a task's term is `Learner.meta_loss` (the query loss after `adapt`), and the
step is the outer loop's.

Differences from the paper
    - The outer optimizer, its schedule and clipping are the run's (`optimizer`, `scheduler`), by default Adam at 1e-3
      as in the paper.
    - L is a mean over examples; eq. 2 and 3 have sums. In a regression it is the official loss. The official
      cross-entropy (utils.py, xent) is a vector, of each example's divided by the shots K, whose gradient is that of
      its sum: of N K / K = N (ways) times the mean, whatever K. So its alpha is N times as large in our units: .4 (5
      ways) and .1 (20 ways) on Omniglot are 2, .01 on mini-ImageNet is .05. Its query loss is likewise N Q / K times
      ours for Q queries a class: its clipping of the meta-gradient's entries to 10 on mini-ImageNet (Q = 15) is to .133
      for 1 shot, .667 for 5. The settings `omniglot/maml` and `miniimagenet/maml` keep smaller steps, for short runs.
    - Batch norm's scale and shift adapt like all parameters. The official one has a shift alone, which does not adapt,
      and eps 1e-3 where here it is 1e-5; its last layer on Omniglot starts normal of standard deviation 1
      (`backbone.head_std`), all others by Glorot's uniform rule (`backbone.init=xavier`).
    - The outer loss is the mean over tasks, as in the official code; eq. 1 has the sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.func import grad

from metarun.checks import NonNegative, require_int
from metarun.learner.learner import Backbone, Learner
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss


class MAML(Learner):
    """Learns an initialisation from which a few gradient steps solve a task.

    Args:
        backbone: makes the network, `backbone(outputs=...)`.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        inner_lr: alpha.
        inner_steps: inner steps in training.
        eval_steps: inner steps at which the headline metric is measured.
        first_order: treat the inner gradient as a constant (FOMAML).

    Raises:
        ValueError: steps that are not integers of at least 0.
    """

    inner_lr: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        inner_lr: NonNegative,
        inner_steps: int,
        eval_steps: int,
        first_order: bool,
    ) -> None:
        super().__init__(loss)
        require_int("algo", inner_steps=inner_steps, eval_steps=eval_steps)
        self.net = backbone(outputs=outputs)
        self.register_hyperparameter("inner_lr", inner_lr)
        self.inner_steps, self.eval_steps = inner_steps, eval_steps
        self.first_order = first_order

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # MAML samples nothing
        alpha = self.inner_lr

        def f(theta: dict[str, Tensor]) -> Predictor:
            # The network under theta; batch norm normalises queries as its mode says, with `support` if it needs it.
            return self.functional_predictor(self.net, theta, support)

        def L(theta: dict[str, Tensor]) -> Tensor:
            return self.loss(f(theta)(support.x), support.y)  # eq. 2 or 3

        theta: dict[str, Tensor] = dict(self.net.named_parameters())
        yield f(theta)
        for _ in range(steps):
            # Section 5.2: a gradient taken at detached weights is a constant for autograd.
            at = {name: weight.detach() for name, weight in theta.items()} if self.first_order else theta
            gradient = grad(L)(at)  # algorithm 2, line 6
            theta = {name: theta[name] - alpha * gradient[name] for name in theta}  # algorithm 2, line 7
            yield f(theta)
