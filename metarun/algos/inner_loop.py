"""Plain gradient descent on a support set: MAML's inner loop, and how the baselines fine-tune.

theta_{k+1} = theta_k - alpha grad L(theta_k, D)        L: the task loss on the support set D

Differences from the paper: stated by the algorithms that use it; this is no algorithm of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.func import grad

from metarun.algos.learner import Learner, Predictor
from metarun.tasks.task import Examples


def descend(
    learner: Learner, net: nn.Module, support: Examples, steps: int, lr: Tensor, first_order: bool
) -> Iterator[Predictor]:
    """Predictors of `net` after 0, 1, ..., `steps` gradient steps on one task's support set.

    Args:
        learner: whose task loss L and whose treatment of queries (`network_predictor`) apply.
        net: the network; its own parameters are theta_0 and stay as they are.
        support: D, `x [n, ...]` and `y` as in `Examples`.
        steps: how many.
        lr: alpha, 0-dim.
        first_order: take the gradient for a constant.
    """

    def support_loss(theta: dict[str, Tensor]) -> Tensor:
        return learner.loss(learner.network_predictor(net, theta, support)(support.x), support.y)

    theta: dict[str, Tensor] = dict(net.named_parameters())
    yield learner.network_predictor(net, theta, support)
    for _ in range(steps):
        # A gradient taken at detached weights is a constant, and autograd records nothing of its making.
        at = {name: p.detach() for name, p in theta.items()} if first_order else theta
        gradient = grad(support_loss)(at)
        theta = {name: p - lr * gradient[name] for name, p in theta.items()}
        yield learner.network_predictor(net, theta, support)
