"""The quadratic program of Crammer and Singer's multi-class support vector machine, and its derivative.

Crammer, Singer: On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines, JMLR 2001. The method is
Mehrotra's predictor and corrector (Nocedal, Wright: Numerical Optimization, 2nd ed., 16.6); the derivative is that of
the optimality conditions (Amos, Kolter: OptNet, ICML 2017, arXiv 1703.00443). MetaOptNet's head uses it.

With K `[n, n]` positive semi-definite, examples i of class y_i, and a dual variable a_im for each example and class:

    min_a  1/2 sum_m a_m^T K a_m - sum_i a_{i y_i}    with   a_im <= C 1[m = y_i],   sum_m a_im = 0

Conditions: K a - Y + z + nu = 0, a + s = C Y, sum_m a_im = 0, s z = 0, s and z non-negative. A Newton step on them
solves one system per class, K + diag(z_m / s_m), and one of size n for nu; no matrix of size n ways is needed.

Differences from the paper: stated by the algorithm that uses it; this is not a learner of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

ITERATIONS = 40  # at most; measured: 7 to 20
GAP = 1e-12  # mean of s z, relative to C, at which a program has converged
BOUND_FRACTION = 0.99  # of the way to the nearest bound that a step takes
TINY = 1e-10  # relative to the kernel's mean diagonal


class _Point(NamedTuple):
    a: Tensor  # [..., n, ways]
    s: Tensor  # [..., n, ways], slack to the bounds
    z: Tensor  # [..., n, ways], multipliers of the bounds
    nu: Tensor  # [..., n, 1], multipliers of the sums


def crammer_singer(K: Tensor, Y: Tensor, C: Tensor | float) -> Tensor:
    """Solve the program, in float64 for any input type.

    Args:
        K: kernel matrix, `[n, n]`, symmetric and positive semi-definite. If it has a null space, there are several
            optima a, all with the same K a, and the derivative is unreliable.
        Y: one-hot classes, `[n, ways]`; at least two ways.
        C: bound, above 0.

    Returns:
        The dual variables a at the optimum, `[n, ways]`, differentiable once, by K only. They satisfy the constraints
        to rounding. NaN if K contains NaN.
    """
    K64, Y64 = K.double(), Y.detach().double()
    bound = torch.as_tensor(C, dtype=torch.float64, device=K.device).detach().reshape(1, 1)
    with torch.no_grad():
        point = _Point(*_optimum(K64, Y64, bound))
        inverses = _inverses(K64, point)
    # A Newton step from the optimum is zero, and its derivative by K is that of the optimum.
    step, _ = _step(inverses, _residual(K64, Y64, point), point, torch.zeros_like(point.s))
    return (point.a + step - step.detach()).to(K.dtype)


# A custom operation for vmap and the compiler, which would unroll the loop, and compile it for minutes.
@torch.library.custom_op(
    "metarun::crammer_singer",
    mutates_args=(),
    schema="(Tensor K, Tensor Y, Tensor C) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _optimum(K: Tensor, Y: Tensor, C: Tensor) -> tuple[Tensor, ...]:
    """The optimum of each program, as a `_Point`; K `[..., n, n]`, Y `[..., n, ways]`, C `[..., 1, 1]`."""
    a = C / 2 * (Y - (1 - Y) / (Y.shape[-1] - 1))  # inside all bounds, sums are zero
    size = 1 + C * K.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]  # scale of the residual
    point = _Point(a, C * Y - a, size * torch.ones_like(a), torch.zeros_like(a[..., :1]))
    for _ in range(ITERATIONS):
        residual, gap = _residual(K, Y, point), _mean(point.s * point.z)
        active = (gap > GAP * C) | (residual.abs().amax((-2, -1), keepdim=True) > 1e-10 * size)
        if not active.any():
            break
        new = _advance(K, point, residual, gap)
        # Freeze converged programs while others continue: further steps would be 0/0.
        active = active & torch.cat([part.isfinite().flatten(-2) for part in new], -1).all(-1)[..., None, None]
        point = _Point(*(torch.where(active, n, o) for n, o in zip(new, point, strict=True)))
    return tuple(point)


@_optimum.register_fake
def _(K: Tensor, Y: Tensor, C: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG001
    return torch.empty_like(Y), torch.empty_like(Y), torch.empty_like(Y), torch.empty_like(Y[..., :1])


@_optimum.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *arguments: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    batched = [
        x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(arguments, in_dims, strict=True)
    ]
    return _optimum(*batched), (0, 0, 0, 0)


def _residual(K: Tensor, Y: Tensor, point: _Point) -> Tensor:
    return K @ point.a - Y + point.z + point.nu


def _mean(x: Tensor) -> Tensor:
    return x.mean((-2, -1), keepdim=True)


def _advance(K: Tensor, point: _Point, residual: Tensor, gap: Tensor) -> _Point:
    """One step of Mehrotra's method: the predictor's step length sets the target of s z for the corrector."""
    inverses = _inverses(K, point)
    product = point.s * point.z
    da, dnu = _step(inverses, residual, point, point.z)
    dz = -point.z + point.z / point.s * da
    length = _step_length(point, da, dz, 1.0)
    reached = _mean((point.s - length * da) * (point.z + length * dz))
    product = product - da * dz - gap * (reached / gap).clamp(0, 1) ** 3  # ds is -da
    da, dnu = _step(inverses, residual, point, product / point.s)
    dz = -(product - point.z * da) / point.s
    length = _step_length(point, da, dz, BOUND_FRACTION)
    return _Point(point.a + length * da, point.s - length * da, point.z + length * dz, point.nu + length * dnu)


def _step_length(point: _Point, da: Tensor, dz: Tensor, fraction: float) -> Tensor:
    """A fraction of the longest step that leaves s and z positive, at most 1."""
    fastest = torch.maximum(da / point.s, -dz / point.z).amax((-2, -1), keepdim=True)
    return (fraction / fastest.clamp_min(fraction)).clamp_max(1.0)


def _inverses(K: Tensor, point: _Point) -> tuple[Tensor, Tensor]:
    """(K + diag(z_m / s_m))^-1 of each class, `[..., ways, n, n]`, and the inverse of their sum, `[..., n, n]`."""
    size = K.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    # TINY keeps a K with a null space invertible when z / s is close to zero; the next step corrects the small error.
    diagonal = torch.diag_embed((point.z / point.s + TINY * size).mT)
    blocks = torch.linalg.inv_ex(K.unsqueeze(-3) + diagonal).inverse
    return blocks, torch.linalg.inv_ex(blocks.sum(-3)).inverse


def _step(inverses: tuple[Tensor, Tensor], residual: Tensor, point: _Point, push: Tensor) -> tuple[Tensor, Tensor]:
    """The Newton step (da, dnu) that cancels `residual` and the sums of a; `push` is the change of s z, over s."""
    blocks, inverse_of_sum = inverses
    da = torch.einsum("...mij,...jm->...im", blocks, push - residual)  # without the constraint on the sums
    dnu = torch.zeros_like(point.nu)
    for _ in range(2):  # the second time for the rounding error of the first
        missing = inverse_of_sum @ (da + point.a).sum(-1, keepdim=True)
        da, dnu = da - torch.einsum("...mij,...j->...im", blocks, missing.squeeze(-1)), dnu + missing
    return da, dnu
