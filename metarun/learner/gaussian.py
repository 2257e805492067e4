"""Independent normal distributions of a network's parameters: bounded variances, samples, and divergence.

Means and variances are dicts of tensors by the parameters' names, with their shapes.

Differences from the paper: stated by the algorithms that use it; this is not an algorithm of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metarun.checks import require_range
from metarun.learner.ensemble import Weights


class Variances(nn.Module):
    """A learned variance for each parameter of a network, `exp(low + (high - low) sigmoid(raw))`; raw is initially 0.

    Args:
        net: the network.
        log_variance: low and high.

    Raises:
        ValueError: low is not below high.
    """

    def __init__(self, net: nn.Module, log_variance: Sequence[float]) -> None:
        super().__init__()
        require_range("algo.log_variance", log_variance, strict=True)
        self.lowest, self.highest = log_variance
        self.names = [name for name, _ in net.named_parameters()]
        self.raw = nn.ParameterList(torch.zeros_like(p) for p in net.parameters())

    def forward(self) -> Weights:
        span = self.highest - self.lowest
        return {
            name: (self.lowest + span * raw.sigmoid()).exp() for name, raw in zip(self.names, self.raw, strict=True)
        }

    def mean_std(self) -> Tensor:
        """The mean standard deviation over all parameters, 0-dim."""
        return torch.cat([variance.sqrt().flatten() for variance in self().values()]).mean()


def count_parameters(net: nn.Module) -> int:
    """The number of entries of all parameters: the random numbers that one sample of them takes."""
    return sum(p.numel() for p in net.parameters())


def draw(mean: Weights, variance: Weights, random_inputs: Any) -> Weights:
    """Sample parameters, `[S, ...]`.

    Args:
        mean: means by name.
        variance: variances by name.
        random_inputs: standard normal numbers `[S, parameters]`; (): return the mean, as a single sample.
    """
    if not isinstance(random_inputs, Tensor):
        return {name: m.unsqueeze(0) for name, m in mean.items()}
    pieces = random_inputs.split([m.numel() for m in mean.values()], dim=-1)
    pairs = zip(mean.items(), pieces, strict=True)
    return {name: m + variance[name].sqrt() * piece.view(-1, *m.shape) for (name, m), piece in pairs}


def divergence(mean_q: Weights, variance_q: Weights, mean_p: Weights, variance_p: Weights) -> Tensor:
    """KL(q || p) of normal distributions in nats, summed over all parameters."""
    terms = []
    for name, v in variance_q.items():
        ratio = v / variance_p[name]
        distance = (mean_q[name] - mean_p[name]).square() / variance_p[name]
        terms.append((ratio + distance - 1 - ratio.log()).sum())
    return 0.5 * torch.stack(terms).sum()
