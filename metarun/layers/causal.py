"""Layers over sequences in which nothing sees what comes later: temporal convolutions, attention (Mishra et al. 2018).

Many sequences share their beginning: x `[n + m, channels]` holds n items in their order, and m last items, each of
which follows on those n in a sequence of its own. What they share is computed once, for no end changes it. Each layer
hands on what it was given, with what it adds beside it.
"""

from __future__ import annotations

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DenseBlock(nn.Module):
    """[x_t, tanh(V x) * sigma(U x)], where V and U are causal convolutions of x_t and x_{t - dilation}.

    Args:
        channels: of x.
        filters: channels that are added.
        dilation: how far back the other item is; zeros stand before the first.
    """

    def __init__(self, channels: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.convolution = nn.Linear(2 * channels, 2 * filters)
        self.dilation = dilation

    def forward(self, x: Tensor, n: int) -> Tensor:
        value, gate = self.convolution(torch.cat([earlier(x, n, self.dilation), x], 1)).chunk(2, 1)
        return torch.cat([x, value.tanh() * gate.sigmoid()], 1)


class TemporalConvolution(nn.ModuleList):
    """Dense blocks of dilations 1, 2, 4, ...; the last item sees the 2^layers - 1 before it.

    Args:
        channels: of x.
        filters: channels that each block adds.
        layers: how many blocks.
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
        channels: of x.
        keys: width of q and k.
        values: channels that are added.
    """

    def __init__(self, channels: int, keys: int, values: int) -> None:
        super().__init__()
        self.queries = nn.Linear(channels, keys)
        self.keys = nn.Linear(channels, keys, bias=False)  # a bias would vanish in the softmax
        self.values = nn.Linear(channels, values)

    def forward(self, x: Tensor, n: int) -> Tensor:
        return torch.cat([x, self.attention(x, n) @ self.values(x)], 1)

    def attention(self, x: Tensor, n: int) -> Tensor:
        """a `[n + m, n + m]`; rows sum to one."""
        scores = self.queries(x) @ self.keys(x).mT / sqrt(self.keys.out_features)
        return scores.masked_fill(~seen(n, len(x), x.device), -torch.inf).softmax(1)


def earlier(x: Tensor, n: int, distance: int) -> Tensor:
    """Of every item of x the one so many steps before it in its sequence, zeros before the first."""
    start = F.pad(x[:n], (0, 0, distance, 0))
    return torch.cat([start[:n], start[n : n + 1].expand(len(x) - n, -1)])


def seen(n: int, items: int, device: torch.device) -> Tensor:
    """`[items, items]`: whether item i sees item j. It sees itself, and those of the first n that are before it."""
    i = torch.arange(items, device=device)
    return (i[:, None] == i) | ((i < n) & (i < i[:, None]))
