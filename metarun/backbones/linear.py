"""A linear map of the inputs: the network whose squared loss is a quadratic function of its weights."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn


class Linear(nn.Module):
    """Maps `x [n, *in_shape]` to `[n, outputs]`, or to its numbers `[n, d]` where `outputs` is None.

    Args:
        in_shape: shape of one input; it is flattened.
        outputs: width of the one layer, `head`; None: no layer, and nothing to learn.
        bias: whether the layer has one.
    """

    def __init__(self, in_shape: tuple[int, ...], outputs: int | None, bias: bool) -> None:
        super().__init__()
        self.head = nn.Identity() if outputs is None else nn.Linear(prod(in_shape), outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))
