"""No network at all: the inputs themselves, for learners that are given pixels as they are."""

from __future__ import annotations

from math import prod

import torch.nn.functional as F
from torch import Tensor, nn


class Pixels(nn.Module):
    """Maps `x [n, *in_shape]` to its numbers `[n, d]`, or through a linear layer to `[n, outputs]`.

    Args:
        in_shape: shape of one input.
        outputs: width of a last, linear layer, `head`; None: no layer, and nothing to learn.
        size: images are shrunk to so many pixels each way, by averaging; None: as they are.

    Raises:
        ValueError: `size` is not a whole number of at least 1.
    """

    def __init__(self, in_shape: tuple[int, ...], outputs: int | None, size: int | None) -> None:
        super().__init__()
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ValueError(f"backbone.size must be a whole number of at least 1, or null; got {size!r}")
        self.size = size if len(in_shape) == 3 else None
        width = prod(in_shape) if self.size is None else in_shape[0] * self.size**2
        self.head = nn.Identity() if outputs is None else nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None:
            x = F.adaptive_avg_pool2d(x, self.size)
        return self.head(x.flatten(1))
