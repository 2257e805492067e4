"""How gradients enter a network that learns from them: their size by its logarithm, and their sign.

Andrychowicz et al.: Learning to learn by gradient descent by gradient descent, NIPS 2016, arXiv 1606.04474, appendix A.
Learned optimizers, Meta-LSTM and MetaNet use it. Coordinate by coordinate, a gradient g becomes two numbers,

    (log|g| / p, sign g)    if |g| >= exp(-p)
    (-1, exp(p) g)          otherwise

Both are continuous at the threshold, and of order one for gradients of any size.

Differences from the paper: none.
"""

from __future__ import annotations

from math import exp

import torch
from torch import Tensor


def preprocess(gradient: Tensor, p: float) -> Tensor:
    """From g of any shape `[...]` to the two numbers, `[..., 2]`; finite, with finite derivatives, also at g = 0.

    Args:
        gradient: g.
        p: above 0; gradients below exp(-p) are small. The papers take 10, MetaNet 7.
    """
    size = gradient.abs()
    large = size >= exp(-p)
    # The logarithm of 0 is not chosen, but its derivative would make the derivative of what is chosen NaN.
    logarithm = torch.where(large, torch.where(large, size, 1.0).log() / p, -1.0)
    return torch.stack([logarithm, torch.where(large, gradient.sign(), exp(p) * gradient)], -1)
