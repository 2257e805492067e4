"""Kronecker-factored curvature of a network's layers, and its log determinant.

Martens, Grosse: Optimizing Neural Networks with Kronecker-factored Approximate Curvature, ICML 2015, arXiv 1503.05671;
for convolutions Grosse, Martens, ICML 2016, arXiv 1602.01573.

A layer computes h = W a, bias in W and a 1 in a. With g the derivative of a log-likelihood by h, its block of the
Fisher information, of the mean over n examples, is taken for A x G (Kronecker):
    A = 1/n sum a a^T  (convolution: over all patches),    G = 1/n sum g g^T  (convolution: and mean over positions)
    log det = d_G log det(A + sqrt(damping) I) + d_A log det(G + sqrt(damping) I),    summed over layers

The expectation over labels y ~ p(y | x) is exact, not sampled: g runs over the columns of a square root of the
log-likelihood's Hessian by the output, a backward pass each (softmax: sqrt(p_c) (e_c - p); normal, variance 1: e_c).

Differences from the paper: stated by the algorithms that use it; this is no algorithm of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vjp, vmap


class Tap:
    """At a layer: while open it keeps what the layer is given, and adds to what it gives."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        self.layer = layer
        self.open = False
        self.given: Tensor | None = None
        self.gave: Tensor | None = None
        self.added: Tensor | None = None
        layer.register_forward_hook(self)

    def __call__(self, layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        del layer
        if not self.open:
            return None
        (self.given,), self.gave = arguments, output
        return None if self.added is None else output + self.added

    def close(self) -> None:
        self.open, self.given, self.gave, self.added = False, None, None, None

    def factors(self, given: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """A and G, from what the layer is given, `[n, ...]`, and the g of its output, `[columns, n, ...]`."""
        n = len(given)
        if isinstance(self.layer, nn.Conv2d):
            conv = self.layer
            assert not isinstance(conv.padding, str)
            patches = F.unfold(given, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
            a = patches.transpose(1, 2).flatten(0, 1)  # [n positions, d]
            g = g.flatten(3).transpose(2, 3).flatten(1, 2)  # [columns, n positions, d]
        else:
            a = given
        if self.layer.bias is not None:
            a = torch.cat([a, torch.ones_like(a[:, :1])], 1)
        g = g.flatten(0, 1)
        return a.T @ a / n, g.T @ g / len(a)


def tap_layers(net: nn.Module) -> dict[str, Tap]:
    """A tap at each linear and convolution layer, by the layer's name."""
    return {name: Tap(layer) for name, layer in net.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}


@contextmanager
def opened(taps: Mapping[str, Tap]) -> Iterator[None]:
    """Inside, the taps are open; afterwards they keep nothing."""
    for tap in taps.values():
        tap.open = True
    try:
        yield
    finally:
        for tap in taps.values():
            tap.close()


def kronecker_factors(predict: Callable[[], Tensor], taps: Mapping[str, Tap], classes: bool) -> Iterator[tuple]:
    """(A, G) of each layer.

    Args:
        predict: the tapped network's output of n examples, `[n, outputs]`.
        taps: of its layers.
        classes: whether the outputs are class scores; else means of normal distributions of variance 1.
    """

    def perturbed(added: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        for name, tap in taps.items():
            tap.added = added[name]
        output = predict()
        given = {name: tap.given for name, tap in taps.items()}
        return output, {name: a for name, a in given.items() if a is not None}

    with opened(taps):
        predict()
        zeros = {name: torch.zeros_like(tap.gave) for name, tap in taps.items() if tap.gave is not None}
        with_aux: Any = vjp(perturbed, zeros, has_aux=True)
    output, pull, given = with_aux
    (g,) = vmap(pull)(hessian_columns(output, classes))
    for name, tap in taps.items():
        yield tap.factors(given[name], g[name])


def hessian_columns(output: Tensor, classes: bool) -> Tensor:
    """Columns s, `[outputs, n, outputs]`, with sum s s^T the Hessian of - log p(y | output) of each example."""
    identity = torch.eye(output.shape[1], dtype=output.dtype, device=output.device)
    if not classes:
        return identity.unsqueeze(1).expand(-1, *output.shape)
    p = output.softmax(-1)
    return p.sqrt().T.unsqueeze(-1) * (identity.unsqueeze(1) - p)


def log_determinant(predict: Callable[[], Tensor], taps: Mapping[str, Tap], classes: bool, damping: Tensor) -> Tensor:
    """log det of the curvature, 0-dim; arguments as in `kronecker_factors`, and a damping above 0 (0-dim)."""
    total = []
    for A, G in kronecker_factors(predict, taps, classes):
        total.append(len(G) * _log_det(A, damping) + len(A) * _log_det(G, damping))
    return torch.stack(total).sum()


def _log_det(matrix: Tensor, damping: Tensor) -> Tensor:
    damped = matrix + damping.sqrt() * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return 2 * torch.linalg.cholesky_ex(damped).L.diagonal().log().sum()
