"""Plain gradient descent on a support set: MAML's inner loop, and how the baselines fine-tune.

theta_{k+1} = theta_k - alpha grad L(theta_k, D)        L: the task loss on the support set D

alpha is one number, or one (of any shape that broadcasts) for each parameter that moves, at every step the same or not.

Differences from the paper: stated by the algorithms that use it; this is no algorithm of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad

from metarun.learner.learner import Learner
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples

Rates = Mapping[str, Tensor]


def descend(
    learner: Learner,
    net: nn.Module,
    support: Examples,
    steps: int,
    rates: Tensor | Rates | Callable[[int], Rates],
    first_order: bool = False,
) -> Iterator[Predictor]:
    """Predictors of `net` after 0, 1, ..., `steps` gradient steps on one task's support set.

    Args:
        learner: whose task loss L and whose treatment of queries (`network_predictor`) apply.
        net: the network; its own parameters are theta_0 and stay as they are.
        support: D, `x [n, ...]` and `y` as in `Examples`.
        steps: how many.
        rates: alpha, 0-dim, for all parameters; or by the parameter's name, and then those that are not named stay
            as they are; or a function from the step (0, 1, ...) to such rates, always of the same names.
        first_order: take the gradient for a constant.
    """

    def support_loss(moving: dict[str, Tensor]) -> Tensor:
        return learner.loss(learner.functional_predictor(net, {**theta, **moving}, support)(support.x), support.y)

    theta: dict[str, Tensor] = dict(net.named_parameters())
    yield learner.functional_predictor(net, theta, support)
    for step in range(steps):
        rate = _at(rates, step, theta)
        # A gradient taken at detached weights is a constant, and autograd records nothing of its making.
        moving = {name: theta[name].detach() if first_order else theta[name] for name in rate}
        gradient = grad(support_loss)(moving)
        theta = {**theta, **{name: theta[name] - alpha * gradient[name] for name, alpha in rate.items()}}
        yield learner.functional_predictor(net, theta, support)


def _at(rates: Tensor | Rates | Callable[[int], Rates], step: int, theta: dict[str, Tensor]) -> Rates:
    if isinstance(rates, Tensor):
        return dict.fromkeys(theta, rates)
    return rates if isinstance(rates, Mapping) else rates(step)


def named_pieces(theta: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Weights by name, of all coordinates `[P]` one after the other in the order of `shapes`."""
    pieces = theta.split([shape.numel() for shape in shapes.values()])
    return {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def mini_batches(tasks: int, n: int, steps: int, size: int | None, generator: torch.Generator) -> Any:
    """Rows `[tasks, steps, size]` of sets of n, one shuffle of a set after the other; (): no mini-batches."""
    if size is None:
        return ()
    shuffles = max(1, -(-steps * size // n))
    rows = torch.rand(tasks, shuffles, n, generator=generator, device=generator.device).argsort(-1)
    return rows.flatten(1)[:, : steps * size].unflatten(1, (steps, size))
