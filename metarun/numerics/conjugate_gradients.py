"""Conjugate gradients for a symmetric matrix given by its products with vectors, which are weights by name.

Hestenes, Stiefel: Methods of Conjugate Gradients for Solving Linear Systems, 1952; the stop at directions of negative
curvature is Steihaug's (1983). iMAML computes its outer gradient by it.

Differences from the paper: stated by the algorithm that uses it; this is not a learner of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Weights = dict[str, Tensor]
FLAT = 0.5  # curvature below which to stop; I + H / lambda of a convex problem has at least 1


def conjugate_gradients(matrix: Callable[[Weights], Weights], b: Weights, steps: int) -> Weights:
    """Solve `matrix(x) = b` approximately.

    Args:
        matrix: the product of a symmetric matrix with a vector.
        b: the right-hand side.
        steps: number of steps, from x = 0.

    Returns:
        x after these steps, or at the first direction whose curvature is below FLAT. If that is the first direction, or
        without steps, b itself.
    """
    if not steps:
        return b
    x, residual, direction = {n: torch.zeros_like(w) for n, w in b.items()}, b, b
    size = _dot(residual, residual)
    active, started = torch.ones_like(size), torch.zeros_like(size)
    for _ in range(steps):
        image = matrix(direction)
        curvature = _dot(direction, image)
        active = active * (curvature > FLAT * _dot(direction, direction))
        started = started.maximum(active)
        rate = active * _divide(size, curvature)
        x = {n: x[n] + rate * direction[n] for n in x}
        residual = {n: residual[n] - rate * image[n] for n in x}
        before, size = size, _dot(residual, residual)
        direction = {n: residual[n] + _divide(size, before) * direction[n] for n in x}
    return {n: torch.where(started > 0, x[n], b[n]) for n in x}


def _dot(a: Weights, b: Weights) -> Tensor:
    return torch.stack([(a[n] * b[n]).sum() for n in a]).sum()


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """a / b, or a where b is 0, so that steps after convergence stay finite."""
    return a / torch.where(b == 0, 1.0, b)
