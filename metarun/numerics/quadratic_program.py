"""The quadratic program of the multi-class support vector machine of Crammer and Singer, and its derivative.

Crammer, Singer: On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines, JMLR 2001. The method is
Mehrotra's predictor and corrector (Nocedal, Wright: Numerical Optimization, 2nd ed., 16.6), the derivative that of the
conditions for an optimum (Amos, Kolter: OptNet, ICML 2017, arXiv 1703.00443). MetaOptNet's head uses it.

With K `[n, n]` positive semi-definite, examples i of class y_i, one dual variable a_im for each example and class:

    min_a  1/2 sum_m a_m^T K a_m - sum_i a_{i y_i}    with   a_im <= C 1[m = y_i],   sum_m a_im = 0

The conditions: K a - Y + z + nu = 0, a + s = C Y, sum_m a_im = 0, s z = 0, s and z not negative. A Newton step on them
is a system for each class on its own, K + diag(z_m / s_m), and one of size n for nu: no matrix of size n ways is made.

Differences from the paper: stated by the algorithm that uses it; this is no learner of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

ITERATIONS = 40  # at most; programs took 7 to 20
GAP = 1e-12  # mean of s z, over C, at which one is done
SHY = 0.99  # of the way to the nearest bound
TINY = 1e-10  # of the kernel's mean diagonal


class _Point(NamedTuple):
    a: Tensor  # [..., n, ways]
    s: Tensor  # [..., n, ways], the way to the bounds
    z: Tensor  # [..., n, ways], their multipliers
    nu: Tensor  # [..., n, 1], multipliers of the sums


def crammer_singer(K: Tensor, Y: Tensor, C: Tensor | float) -> Tensor:
    """The dual variables a at the optimum, `[n, ways]`, differentiable once by K and by nothing else.

    Computed in float64 whatever comes in. What is handed out is inside the bounds, and sums to zero, to rounding; NaN
    if K holds one. If K has a null space, a is one of several optima, and its derivative unreliable; all have one K a.

    Args:
        K: kernel matrix, `[n, n]`, symmetric and positive semi-definite.
        Y: indicators of the classes, `[n, ways]`, 0 and 1; at least two ways.
        C: bound, above 0.
    """
    K64, Y64 = K.double(), Y.detach().double()
    bound = torch.as_tensor(C, dtype=torch.float64, device=K.device).detach().reshape(1, 1)
    with torch.no_grad():
        point = _Point(*_optimum(K64, Y64, bound))
        inverses = _inverses(K64, point)
    # One Newton step from the optimum: its value is nought, and its derivative by K that of the optimum.
    step, _ = _step(inverses, _residual(K64, Y64, point), point, torch.zeros_like(point.s))
    return (point.a + step - step.detach()).to(K.dtype)


# To vmap and to the compiler an operation of its own: the loop would be unrolled, and compiled for minutes.
@torch.library.custom_op(
    "metarun::crammer_singer",
    mutates_args=(),
    schema="(Tensor K, Tensor Y, Tensor C) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _optimum(K: Tensor, Y: Tensor, C: Tensor) -> tuple[Tensor, ...]:
    """The optimum of each program, as a `_Point`. K `[..., n, n]`, Y `[..., n, ways]`, C `[..., 1, 1]`."""
    a = C / 2 * (Y - (1 - Y) / (Y.shape[-1] - 1))  # inside all bounds, sums to zero
    size = 1 + C * K.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]  # of what the multipliers must balance
    point = _Point(a, C * Y - a, size * torch.ones_like(a), torch.zeros_like(a[..., :1]))
    for _ in range(ITERATIONS):
        residual, gap = _residual(K, Y, point), _mean(point.s * point.z)
        going = (gap > GAP * C) | (residual.abs().amax((-2, -1), keepdim=True) > 1e-10 * size)
        if not going.any():
            break
        new = _advance(K, point, residual, gap)
        # Who is done stands still while others go on: further steps would divide nought by nought.
        going = going & torch.cat([part.isfinite().flatten(-2) for part in new], -1).all(-1)[..., None, None]
        point = _Point(*(torch.where(going, n, o) for n, o in zip(new, point, strict=True)))
    return tuple(point)


@_optimum.register_fake
def _(K: Tensor, Y: Tensor, C: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG001
    return torch.empty_like(Y), torch.empty_like(Y), torch.empty_like(Y), torch.empty_like(Y[..., :1])


@_optimum.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *arguments: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    together = [
        x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(arguments, in_dims, strict=True)
    ]
    return _optimum(*together), (0, 0, 0, 0)


def _residual(K: Tensor, Y: Tensor, point: _Point) -> Tensor:
    return K @ point.a - Y + point.z + point.nu


def _mean(x: Tensor) -> Tensor:
    return x.mean((-2, -1), keepdim=True)


def _advance(K: Tensor, point: _Point, residual: Tensor, gap: Tensor) -> _Point:
    """One step of Mehrotra's: how far s z = 0 lets us go tells how far to aim, and how curved the way is."""
    inverses = _inverses(K, point)
    product = point.s * point.z
    da, dnu = _step(inverses, residual, point, point.z)
    dz = -point.z + point.z / point.s * da
    length = _length(point, da, dz, 1.0)
    reached = _mean((point.s - length * da) * (point.z + length * dz))
    product = product - da * dz - gap * (reached / gap).clamp(0, 1) ** 3  # ds is -da
    da, dnu = _step(inverses, residual, point, product / point.s)
    dz = -(product - point.z * da) / point.s
    length = _length(point, da, dz, SHY)
    return _Point(point.a + length * da, point.s - length * da, point.z + length * dz, point.nu + length * dnu)


def _length(point: _Point, da: Tensor, dz: Tensor, shy: float) -> Tensor:
    """The longest step, at most 1, that leaves s and z positive, and `shy` of it."""
    fastest = torch.maximum(da / point.s, -dz / point.z).amax((-2, -1), keepdim=True)
    return (shy / fastest.clamp_min(shy)).clamp_max(1.0)


def _inverses(K: Tensor, point: _Point) -> tuple[Tensor, Tensor]:
    """(K + diag(z_m / s_m))^-1 of each class, `[..., ways, n, n]`, and the inverse of their sum, `[..., n, n]`."""
    size = K.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    # TINY keeps a K with a null space invertible once z / s is next to nothing; a step that is a little off is made up
    # for by the next one.
    diagonal = torch.diag_embed((point.z / point.s + TINY * size).mT)
    blocks = torch.linalg.inv_ex(K.unsqueeze(-3) + diagonal).inverse
    return blocks, torch.linalg.inv_ex(blocks.sum(-3)).inverse


def _step(inverses: tuple[Tensor, Tensor], residual: Tensor, point: _Point, push: Tensor) -> tuple[Tensor, Tensor]:
    """The Newton step (da, dnu) that cancels `residual` and the sums of a; `push` is what s z lacks, over s."""
    blocks, of_sum = inverses
    da = torch.einsum("...mij,...jm->...im", blocks, push - residual)  # were it not for the sums
    dnu = torch.zeros_like(point.nu)
    for _ in range(2):  # again, for what the first solution left by rounding
        missing = of_sum @ (da + point.a).sum(-1, keepdim=True)
        da, dnu = da - torch.einsum("...mij,...j->...im", blocks, missing.squeeze(-1)), dnu + missing
    return da, dnu
