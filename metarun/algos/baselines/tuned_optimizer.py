"""Hand-designed optimizers that a learned one is compared with: SGD, Nesterov's, RMSprop, Adam.

The baselines of Andrychowicz et al.: Learning to learn by gradient descent by gradient descent, NIPS 2016, arXiv
1606.04474, section 3. Their own papers: Nesterov 1983 (in the form of Sutskever et al., ICML 2013); Tieleman, Hinton
2012; Kingma, Ba, ICLR 2015, arXiv 1412.6980.

Inner problem, as in learner/update_rule.py, with the gradient G = grad f_t(theta_t), and u = v = 0 at the start:
    sgd       g = - alpha G
    nag       u <- 0.9 u + G,   g = - alpha (G + 0.9 u)
    rmsprop   v <- 0.99 v + 0.01 G^2,   g = - alpha G / (sqrt(v) + 1e-8)
    adam      u <- 0.9 u + 0.1 G,   v <- 0.999 v + 0.001 G^2,
              g = - alpha (u / (1 - 0.9^{t+1})) / (sqrt(v / (1 - 0.999^{t+1})) + 1e-8)
Outer problem: none. Tune alpha (`metarun -m algo.inner_lr=...`), as the paper does for each problem.

    symbol   code             shape / unit
    alpha    self.inner_lr    0-dim
    G        gradient         [P]
    u, v     Memory           [P], one entry for each coordinate
    t        Memory.steps     steps taken
    g        update           [P]

Differences from the paper
    - Constants other than alpha are torch's defaults; the paper's are Torch7's defaults, which are the same. Nesterov's
      0.9 is ours, since it has no default.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from metarun.checks import NonNegative, require_choice
from metarun.learner.learner import Backbone, Stage
from metarun.learner.update_rule import UpdateRule
from metarun.tasks import TaskLoss

MOMENTUM, RMSPROP_DECAY, BETA_1, BETA_2, EPS = 0.9, 0.99, 0.9, 0.999, 1e-8


class Memory(NamedTuple):
    """State of a rule: steps taken, first and second moments `[P]`."""

    steps: int
    u: Tensor
    v: Tensor


def sgd(gradient: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """The gradient itself."""
    return gradient, memory


def nag(gradient: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """Nesterov's accelerated gradient, in momentum form."""
    u = MOMENTUM * memory.u + gradient
    return gradient + MOMENTUM * u, memory._replace(u=u)


def rmsprop(gradient: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """The gradient divided by its running root mean square."""
    v = RMSPROP_DECAY * memory.v + (1 - RMSPROP_DECAY) * gradient.square()
    return gradient / (v.sqrt() + EPS), memory._replace(v=v)


def adam(gradient: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """The running mean divided by the running root mean square, both bias-corrected."""
    steps = memory.steps + 1
    u = BETA_1 * memory.u + (1 - BETA_1) * gradient
    v = BETA_2 * memory.v + (1 - BETA_2) * gradient.square()
    return (u / (1 - BETA_1**steps)) / ((v / (1 - BETA_2**steps)).sqrt() + EPS), Memory(steps, u, v)


RULES: dict[str, Callable[[Tensor, Memory], tuple[Tensor, Memory]]] = {
    "sgd": sgd,
    "nag": nag,
    "rmsprop": rmsprop,
    "adam": adam,
}


class TunedOptimizer(UpdateRule):
    """Trains a network on each task from random weights, by a well-known update rule.

    Args:
        backbone, outputs, loss, init_std, batch, eval_steps: as in `UpdateRule`.
        inner_optimizer: `sgd`, `nag`, `rmsprop` or `adam`.
        inner_lr: alpha.

    Raises:
        ValueError: an unknown rule, or as `UpdateRule`.
    """

    stages: tuple[Stage, ...] = ()
    inner_lr: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        inner_optimizer: str,
        inner_lr: NonNegative,
        init_std: float,
        batch: int | None,
        eval_steps: int,
    ) -> None:
        require_choice("algo.inner_optimizer", inner_optimizer, RULES)
        super().__init__(backbone, outputs, loss, init_std, batch, eval_steps)
        self.register_hyperparameter("inner_lr", inner_lr)
        self.rule = RULES[inner_optimizer]

    def begin(self, theta: Tensor) -> Memory:
        return Memory(0, theta.new_zeros(theta.shape), theta.new_zeros(theta.shape))

    def update(self, gradient: Tensor, state: Memory) -> tuple[Tensor, Memory]:
        direction, state = self.rule(gradient, state)
        return -self.inner_lr * direction, state
