"""A linear map of the inputs: its squared loss is a quadratic function of its weights."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn


class Linear(nn.Module):
    """Maps `x [n, *in_shape]` to `[n, outputs]`, or to the flattened inputs `[n, d]` if `outputs` is None.

    Args:
        in_shape: shape of one input, which is flattened.
        outputs: width of the only layer, `head`. None: no layer, and no parameters.
        bias: whether the layer has a bias.
    """

    def __init__(self, in_shape: tuple[int, ...], outputs: int | None, bias: bool) -> None:
        super().__init__()
        self.head = nn.Identity() if outputs is None else nn.Linear(prod(in_shape), outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))
