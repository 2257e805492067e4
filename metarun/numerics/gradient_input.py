"""Gradients as inputs of a network: the logarithm of their size, and their sign.

Andrychowicz et al.: Learning to learn by gradient descent by gradient descent, NIPS 2016, arXiv 1606.04474, appendix A.
Learned optimizers, Meta-LSTM and MetaNet use it. Each coordinate g of a gradient becomes two numbers,

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
    """Compute the two numbers of each coordinate.

    Args:
        gradient: g, of any shape `[...]`.
        p: above 0; gradients below exp(-p) are small. The papers use 10, MetaNet 7.

    Returns:
        `[..., 2]`, finite and with finite derivatives, also at g = 0.
    """
    size = gradient.abs()
    large = size >= exp(-p)
    # `where` does not select the logarithm of 0, but the derivative of that would make the result's derivative NaN.
    logarithm = torch.where(large, torch.where(large, size, 1.0).log() / p, -1.0)
    return torch.stack([logarithm, torch.where(large, gradient.sign(), exp(p) * gradient)], -1)
