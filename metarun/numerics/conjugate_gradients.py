"""Conjugate gradients for a symmetric matrix that is known by its products, on weights by name.

Hestenes, Stiefel: Methods of Conjugate Gradients for Solving Linear Systems, 1952; the stop at directions that bend
down is Steihaug's (1983). iMAML solves for its outer gradient with it.

Differences from the paper: stated by the algorithm that uses it; this is no learner of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Weights = dict[str, Tensor]
FLAT = 0.5  # curvature below which a direction is not followed; I + H / lambda of a convex problem has at least 1


def conjugate_gradients(matrix: Callable[[Weights], Weights], b: Weights, steps: int) -> Weights:
    """x with `matrix(x)` about b, after `steps` steps from 0; b itself after none. `matrix` is symmetric.

    It stops at a direction whose curvature is below FLAT; b, if that is the first one.
    """
    if not steps:
        return b
    x, residual, direction = {n: torch.zeros_like(w) for n, w in b.items()}, b, b
    size = _dot(residual, residual)
    going, begun = torch.ones_like(size), torch.zeros_like(size)
    for _ in range(steps):
        image = matrix(direction)
        curvature = _dot(direction, image)
        going = going * (curvature > FLAT * _dot(direction, direction))
        begun = begun.maximum(going)
        rate = going * _over(size, curvature)
        x = {n: x[n] + rate * direction[n] for n in x}
        residual = {n: residual[n] - rate * image[n] for n in x}
        before, size = size, _dot(residual, residual)
        direction = {n: residual[n] + _over(size, before) * direction[n] for n in x}
    return {n: torch.where(begun > 0, x[n], b[n]) for n in x}


def _dot(a: Weights, b: Weights) -> Tensor:
    return torch.stack([(a[n] * b[n]).sum() for n in a]).sum()


def _over(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and a where b is 0: converged, so that nothing is left to divide."""
    return a / torch.where(b == 0, 1.0, b)
