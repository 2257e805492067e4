"""Kronecker-factored curvature of a network's layers, and its log determinant.

Martens, Grosse: Optimizing Neural Networks with Kronecker-factored Approximate Curvature, ICML 2015, arXiv 1503.05671;
for convolutions Grosse, Martens, ICML 2016, arXiv 1602.01573.

A layer computes h = W a, with its bias in W and a 1 in a. With g the derivative of a log-likelihood by h, its block of
the Fisher information of the mean over n examples is approximated by A x G (Kronecker):
    A = 1/n sum a a^T  (convolution: over all patches),    G = 1/n sum g g^T  (convolution: and mean over positions)
    log det = d_G log det(A + sqrt(damping) I) + d_A log det(G + sqrt(damping) I),    summed over layers

The expectation over labels y ~ p(y | x) is exact, not sampled: g runs over the columns of a square root of the
log-likelihood's Hessian by the output, a backward pass each (softmax: sqrt(p_c) (e_c - p); normal, variance 1: e_c).

One pass serves a column of all examples where each output depends on its own example alone. Where examples depend on
each other, as under batch norm, g of a row is a sum over the outputs that it affects, and labels are independent, so
that products of two examples' parts must not count: `coupled` takes a pass for each example and column, which is exact,
and n times the time and memory.

Differences from the paper: stated by the algorithms that use it; this is not an algorithm of its own.
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
    """A forward hook of a layer. While open, it records the layer's input and output, and adds to the output.

    Attributes:
        open: whether it is active.
        input: the layer's last input.
        output: the layer's last output, before the addition.
        added: what is added to the output; None: nothing.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        self.layer = layer
        self.open = False
        self.input: Tensor | None = None
        self.output: Tensor | None = None
        self.added: Tensor | None = None
        layer.register_forward_hook(self)

    def __call__(self, layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        del layer
        if not self.open:
            return None
        (self.input,), self.output = arguments, output
        return None if self.added is None else output + self.added

    def close(self) -> None:
        """Deactivate it and release what it recorded."""
        self.open, self.input, self.output, self.added = False, None, None, None

    def factors(self, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Compute A and G.

        Args:
            x: the layer's input, `[n, ...]`.
            g: derivatives by its output, `[columns, n, ...]`.
        """
        n = len(x)
        if isinstance(self.layer, nn.Conv2d):
            conv = self.layer
            assert not isinstance(conv.padding, str)
            patches = F.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
            a = patches.transpose(1, 2).flatten(0, 1)  # [n positions, d]
            g = g.flatten(3).transpose(2, 3).flatten(1, 2)  # [columns, n positions, d]
        else:
            a = x
        if self.layer.bias is not None:
            a = torch.cat([a, torch.ones_like(a[:, :1])], 1)
        g = g.flatten(0, 1)
        return a.T @ a / n, g.T @ g / len(a)  # of coupled examples g has n times the columns


def tap_layers(net: nn.Module) -> dict[str, Tap]:
    """Attach a tap to each linear and convolution layer of a network; by the layer's name."""
    return {name: Tap(layer) for name, layer in net.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}


@contextmanager
def opened(taps: Mapping[str, Tap]) -> Iterator[None]:
    """Inside, the taps are open; afterwards they hold no tensors."""
    for tap in taps.values():
        tap.open = True
    try:
        yield
    finally:
        for tap in taps.values():
            tap.close()


def kronecker_factors(
    predict: Callable[[], Tensor], taps: Mapping[str, Tap], classes: bool, coupled: bool = False
) -> Iterator[tuple]:
    """Yield (A, G) of each layer, means over all rows that go through it.

    Args:
        predict: returns the network's output for n examples, `[n, outputs]`.
        taps: the taps of its layers.
        classes: True: the outputs are class scores; False: means of normal distributions of variance 1.
        coupled: an output depends on other examples too: a backward pass for each example and column.
    """

    def perturbed(added: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        for name, tap in taps.items():
            tap.added = added[name]
        output = predict()
        inputs = {name: tap.input for name, tap in taps.items()}
        return output, {name: x for name, x in inputs.items() if x is not None}

    with opened(taps):
        predict()
        zeros = {name: torch.zeros_like(tap.output) for name, tap in taps.items() if tap.output is not None}
        with_aux: Any = vjp(perturbed, zeros, has_aux=True)
    output, pull, inputs = with_aux
    columns = hessian_columns(output, classes)
    if coupled:  # of one example each: [n outputs, n, outputs]
        apart = torch.eye(len(output), dtype=output.dtype, device=output.device)
        columns = (apart[:, None, :, None] * columns).flatten(0, 1)
    (g,) = vmap(pull)(columns)
    for name, tap in taps.items():
        yield tap.factors(inputs[name], g[name])


def hessian_columns(output: Tensor, classes: bool) -> Tensor:
    """Columns s, `[outputs, n, outputs]`, whose sum s s^T is the Hessian of - log p(y | output) of each example."""
    identity = torch.eye(output.shape[1], dtype=output.dtype, device=output.device)
    if not classes:
        return identity.unsqueeze(1).expand(-1, *output.shape)
    p = output.softmax(-1)
    return p.sqrt().T.unsqueeze(-1) * (identity.unsqueeze(1) - p)


def log_determinant(
    predict: Callable[[], Tensor], taps: Mapping[str, Tap], classes: bool, damping: Tensor, coupled: bool = False
) -> Tensor:
    """The log determinant of the curvature, 0-dim.

    Args:
        predict, taps, classes, coupled: as in `kronecker_factors`.
        damping: above 0, 0-dim.
    """
    terms = []
    for A, G in kronecker_factors(predict, taps, classes, coupled):
        terms.append(len(G) * _log_det(A, damping) + len(A) * _log_det(G, damping))
    return torch.stack(terms).sum()


def _log_det(matrix: Tensor, damping: Tensor) -> Tensor:
    damped = matrix + damping.sqrt() * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return 2 * torch.linalg.cholesky_ex(damped).L.diagonal().log().sum()
