"""No network: the inputs themselves, for learners that use pixels directly."""

from __future__ import annotations

from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

from metarun.checks import require_int_or_none


class Pixels(nn.Module):
    """Maps `x [n, *in_shape]` to the flattened inputs `[n, d]`, or by a linear layer to `[n, outputs]`.

    Args:
        in_shape: shape of one input.
        outputs: width of the last, linear layer, `head`. None: no layer, and no parameters.
        size: height and width to which images are resized by averaging; None: no change.

    Raises:
        ValueError: `size` is not an integer of at least 1.
    """

    def __init__(self, in_shape: tuple[int, ...], outputs: int | None, size: int | None) -> None:
        super().__init__()
        require_int_or_none("backbone", minimum=1, size=size)
        self.size = size if len(in_shape) == 3 else None
        width = prod(in_shape) if self.size is None else in_shape[0] * self.size**2
        self.head = nn.Identity() if outputs is None else nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None:
            x = F.adaptive_avg_pool2d(x, self.size)
        return self.head(x.flatten(1))
