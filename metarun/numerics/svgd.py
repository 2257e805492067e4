"""Stein variational gradient descent: particles follow the gradient of the posterior and repel each other.

Liu, Wang: Stein Variational Gradient Descent, NIPS 2016, arXiv 1608.04471.

    theta_m <- theta_m + eps phi_m
    phi_m = 1/M sum_k [ k(theta_k, theta_m) grad log p(theta_k) + grad_{theta_k} k(theta_k, theta_m) ]
    k(a, b) = exp(- |a - b|^2 / h),    h = med^2 / log M,    med the median distance between two particles

The second term is 2/h sum_k k(theta_k, theta_m) (theta_m - theta_k): it pushes particles apart. For M = 1 this is
gradient ascent. h is treated as a constant.

A particle is row m of a dict of tensors `[M, ...]`, as one vector.

Differences from the paper: stated by the algorithms that use it; this is not an algorithm of its own.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

TINY = 1e-12  # minimum of the bandwidth: equal particles give k = 1 and no repulsion, instead of 0 / 0


def direction(particles: dict[str, Tensor], gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Compute phi, in the shapes of the particles.

    Args:
        particles: theta.
        gradients: grad log p at each particle, in the shapes of the particles.
    """
    squares = squared_distances(particles)
    count = len(squares)
    h = bandwidth(squares)
    k = (-squares / h).exp()
    moves = {}
    for name, particle in particles.items():
        theta, gradient = particle.reshape(count, -1), gradients[name].reshape(count, -1)
        repulsion = 2 / h * (k.sum(1, keepdim=True) * theta - k @ theta)
        moves[name] = ((k @ gradient + repulsion) / count).view_as(particle)
    return moves


def squared_distances(particles: dict[str, Tensor]) -> Tensor:
    """Squared distances between particles, `[M, M]`, summed over all tensors."""
    rows = [particle.flatten(1) if particle.dim() > 1 else particle.unsqueeze(1) for particle in particles.values()]
    return torch.stack([(row.unsqueeze(1) - row.unsqueeze(0)).square().sum(-1) for row in rows]).sum(0)


def bandwidth(squares: Tensor) -> Tensor:
    """The bandwidth h, 0-dim and constant to autograd, of squared distances `[M, M]`; 1 for a single particle."""
    count = len(squares)
    if count == 1:
        return torch.ones_like(squares[0, 0])
    rows, columns = torch.triu_indices(count, count, offset=1, device=squares.device)
    distances = squares.detach()[rows, columns].sort().values.sqrt()
    middle = (distances[(len(distances) - 1) // 2] + distances[len(distances) // 2]) / 2
    return (middle.square() / log(count)).clamp(min=TINY)
