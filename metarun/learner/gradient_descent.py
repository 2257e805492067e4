"""Plain gradient descent on a support set: MAML's inner loop, and how baselines fine-tune.

theta_{k+1} = theta_k - alpha grad L(theta_k, D)        L: the task loss on the support set D

alpha is one number, or one tensor (of any shape that broadcasts) for each parameter that moves; the same at every step
or not. MAML, Meta-SGD, MT-net and ANIL write this loop out in their own files; their tests hold that it is `descend`.

Differences from the paper: stated by the algorithms that use it; this is not an algorithm of its own.
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
        learner: supplies the task loss L and the treatment of queries (`functional_predictor`).
        net: the network; its parameters are theta_0 and are not changed.
        support: D, `x [n, ...]` and `y` as in `Examples`.
        steps: number of steps.
        rates: alpha, 0-dim, for all parameters; or by parameter name, where parameters that are not named do not move;
            or a function from the step (0, 1, ...) to such rates, always with the same names.
        first_order: treat the gradient as a constant.

    Returns:
        An iterator over the predictors, `steps + 1` of them; each keeps the weights of its step.
    """

    def support_loss(moving: dict[str, Tensor]) -> Tensor:
        return learner.loss(learner.functional_predictor(net, {**theta, **moving}, support)(support.x), support.y)

    theta: dict[str, Tensor] = dict(net.named_parameters())
    yield learner.functional_predictor(net, theta, support)
    for step in range(steps):
        rate = _at(rates, step, theta)
        # A gradient taken at detached weights is a constant: autograd records nothing of its computation.
        moving = {name: theta[name].detach() if first_order else theta[name] for name in rate}
        gradient = grad(support_loss)(moving)
        theta = {**theta, **{name: theta[name] - alpha * gradient[name] for name, alpha in rate.items()}}
        yield learner.functional_predictor(net, theta, support)


def _at(rates: Tensor | Rates | Callable[[int], Rates], step: int, theta: dict[str, Tensor]) -> Rates:
    if isinstance(rates, Tensor):
        return dict.fromkeys(theta, rates)
    return rates if isinstance(rates, Mapping) else rates(step)


def named_pieces(theta: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Split all coordinates `[P]`, concatenated in the order of `shapes`, into weights by name."""
    pieces = theta.split([shape.numel() for shape in shapes.values()])
    return {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def mini_batches(tasks: int, n: int, steps: int, size: int | None, generator: torch.Generator) -> Any:
    """Draw mini-batch indices into sets of n examples, shuffle after shuffle.

    Returns:
        Indices `[tasks, steps, size]`; () where `size` is None: no mini-batches.
    """
    if size is None:
        return ()
    shuffles = max(1, -(-steps * size // n))
    rows = torch.rand(tasks, shuffles, n, generator=generator, device=generator.device).argsort(-1)
    return rows.flatten(1)[:, : steps * size].unflatten(1, (steps, size))
