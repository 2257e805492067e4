"""Causal layers over sequences: temporal convolutions and attention (Mishra et al. 2018). No item sees later ones.

m sequences share their first n items: x `[n + m, channels]` holds the n items in order, and m last items, each the end
of a sequence of its own. The shared items are computed once, since no end affects them. Each layer concatenates its
output to its input.
"""

from __future__ import annotations

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DenseBlock(nn.Module):
    """[x_t, tanh(V x) * sigma(U x)], where V and U are causal convolutions of x_t and x_{t - dilation}.

    Args:
        channels: channels of x.
        filters: channels of the output that is concatenated.
        dilation: distance to the earlier item; zeros are before the first.
    """

    def __init__(self, channels: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.convolution = nn.Linear(2 * channels, 2 * filters)
        self.dilation = dilation

    def forward(self, x: Tensor, n: int) -> Tensor:
        value, gate = self.convolution(torch.cat([earlier(x, n, self.dilation), x], 1)).chunk(2, 1)
        return torch.cat([x, value.tanh() * gate.sigmoid()], 1)


class TemporalConvolution(nn.ModuleList):
    """Dense blocks of dilations 1, 2, 4, ...; an item sees the 2^layers - 1 before it.

    Args:
        channels: channels of x.
        filters: channels that each block concatenates.
        layers: number of blocks.
    """

    def __init__(self, channels: int, filters: int, layers: int) -> None:
        super().__init__(DenseBlock(channels + i * filters, filters, 2**i) for i in range(layers))

    def forward(self, x: Tensor, n: int) -> Tensor:
        for block in self:
            x = block(x, n)
        return x


class CausalAttention(nn.Module):
    """[x_t, sum_j a_tj v_j] over items j up to t, a_t = softmax_j(q_t . k_j / sqrt(keys)); q, k, v linear in x.

    Args:
        channels: channels of x.
        keys: width of q and k.
        values: channels of the output that is concatenated.
    """

    def __init__(self, channels: int, keys: int, values: int) -> None:
        super().__init__()
        self.queries = nn.Linear(channels, keys)
        self.keys = nn.Linear(channels, keys, bias=False)  # the softmax would cancel a bias
        self.values = nn.Linear(channels, values)

    def forward(self, x: Tensor, n: int) -> Tensor:
        return torch.cat([x, self.attention(x, n) @ self.values(x)], 1)

    def attention(self, x: Tensor, n: int) -> Tensor:
        """The attention weights a, `[n + m, n + m]`; rows sum to one."""
        scores = self.queries(x) @ self.keys(x).mT / sqrt(self.keys.out_features)
        return scores.masked_fill(~seen(n, len(x), x.device), -torch.inf).softmax(1)


def earlier(x: Tensor, n: int, distance: int) -> Tensor:
    """For every item of x, the item `distance` steps before it in its sequence; zeros before the first."""
    start = F.pad(x[:n], (0, 0, distance, 0))
    return torch.cat([start[:n], start[n : n + 1].expand(len(x) - n, -1)])


def seen(n: int, items: int, device: torch.device) -> Tensor:
    """Whether item i sees item j, `[items, items]`. It sees itself, and the earlier ones of the first n items."""
    i = torch.arange(items, device=device)
    return (i[:, None] == i) | ((i < n) & (i < i[:, None]))
