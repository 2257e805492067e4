"""ANIL, almost no inner loop: MAML whose inner loop adapts the head only.

Raghu, Raghu, Bengio, Vinyals: Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML,
ICLR 2020, arXiv 1909.09157, section 4. No official code; learn2learn has a port (github learnables/learn2learn,
examples/vision/anil_fc100.py).

theta = (theta_1, ..., theta_l): the parameters of layers 1 to l; layer l is the head. (a) to (d) are our labels.
Inner problem, m steps on the support set S_b of task b, of the head alone:
    (theta_l)_0 = theta_l                                                                          (a)
    (theta_l)_m = (theta_l)_{m-1} - alpha grad_{(theta_l)_{m-1}} L_{S_b}(f_theta_{m-1})            (b)
    theta_m = (theta_1, ..., theta_{l-1}, (theta_l)_m)                                             (c)
Outer problem, over tasks b with query sets Z_b, of all layers:
    theta <- theta - eta grad_theta sum_b L_{Z_b}(f_theta_m)                                       (d)

In training and at test alike. Layers 1 to l-1 do not move in the inner loop, so the support set's features are computed
once. The outer gradient reaches them through the features of the query set and, by way of the adapted head, through
those of the support set.

    symbol                    code             shape / unit
    theta_1..theta_{l-1}      self.body        the backbone up to its last layer; `features` under them [n, width]
    theta_l                   self.head        its last layer, linear; `theta_l` by name
    f_theta                   f(theta_l)       inputs [n, ...] to predictions [n, outputs]
    alpha                     self.inner_lr    0-dim; the same for all parameters and steps
    m                         inner_steps      in training; `eval_steps` at test
    L_{S_b}                   L(theta_l)       `self.loss`, mean over the support set
    S_b, Z_b                  support, query   `x [n, ...]` and `y`
    eta                       optimizer.lr     the run's

This file has the inner problem. Of (d), a task's term is `Learner.meta_loss` (the query loss after `adapt`), and the
step is the outer loop's.

Differences from the paper
    - The outer optimizer, its schedule and clipping are the run's (`optimizer`, `scheduler`).
    - `first_order` is ours, as in MAML: the head's displacement is a constant, for layers 1 to l-1 too.
    - The outer loss is the mean over tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from torch.func import functional_call, grad

from metarun.checks import NonNegative, require_int
from metarun.layers.norm import MODES
from metarun.learner.learner import Backbone, Learner
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss


class ANIL(Learner):
    """Learns features, and a head from which a few gradient steps of the head alone solve a task.

    Args:
        backbone: makes the network, `backbone(outputs=...)`, whose last layer is its `head`.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        inner_lr: alpha.
        inner_steps: m in training.
        eval_steps: inner steps at which the headline metric is measured.
        first_order: treat the inner gradient as a constant.

    Raises:
        ValueError: steps that are not integers of at least 0.
    """

    batch_norm_modes: ClassVar[tuple[str, ...]] = MODES
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
        self.body = backbone(outputs=outputs)
        self.head = cast(nn.Module, self.body.head)
        self.body.head = nn.Identity()  # the body ends in features
        self.register_hyperparameter("inner_lr", inner_lr)
        self.inner_steps, self.eval_steps = inner_steps, eval_steps
        self.first_order = first_order

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # ANIL samples nothing
        alpha = self.inner_lr
        # The body under its own weights; batch norm normalises queries as its mode says, with `support` if it needs it.
        features = self.functional_predictor(self.body, dict(self.body.named_parameters()), support)
        z = cast(Tensor, features(support.x))
        z = z.detach() if self.first_order else z

        def f(theta_l: dict[str, Tensor]) -> Predictor:
            return lambda x: functional_call(self.head, theta_l, (features(x),))  # (c)

        def L(theta_l: dict[str, Tensor]) -> Tensor:
            return self.loss(functional_call(self.head, theta_l, (z,)), support.y)

        theta_l: dict[str, Tensor] = dict(self.head.named_parameters())  # (a)
        yield f(theta_l)
        for _ in range(steps):
            # First order: a gradient taken at detached weights is a constant for autograd.
            at = {name: weight.detach() for name, weight in theta_l.items()} if self.first_order else theta_l
            gradient = grad(L)(at)
            theta_l = {name: theta_l[name] - alpha * gradient[name] for name in theta_l}  # (b)
            yield f(theta_l)
