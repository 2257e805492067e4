"""Scaling and shifting: a few numbers that change what a frozen network computes (Sun et al. 2019, arXiv 1812.02391).

W o Phi_1 takes the place of each layer's weights W, and b + Phi_2 that of its biases b. Official code: github
yaoyao-liu/meta-transfer-learning, pytorch/models/conv2d_mtl.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from metarun.layers.norm import batch_norms


class ScaleShift(nn.Module):
    """Phi_1 and Phi_2 of all convolutions and linear layers of a network; at first they change nothing.

    Args:
        net: the network; only its layers' names and shapes are kept.

    Attributes:
        scales: Phi_1, ones at first; of a convolution a number for each kernel, `[out, in, 1, 1]`, of a linear layer
            for each unit, `[out, 1]`.
        shifts: Phi_2, zeros at first, `[out]`; of layers that have biases.

    Raises:
        ValueError: the network has no such layer.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        layers = [(name, m) for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        if not layers:
            raise ValueError("the backbone must have convolutions or linear layers to scale and shift; it has none")
        self.scaled = [f"{name}.weight" for name, _ in layers]
        self.scales = nn.ParameterList(torch.ones(_scale_shape(m.weight)) for _, m in layers)
        self.shifted = [f"{name}.bias" for name, m in layers if m.bias is not None]
        self.shifts = nn.ParameterList(torch.zeros_like(m.bias) for _, m in layers if m.bias is not None)

    def forward(self, net: nn.Module) -> dict[str, Tensor]:
        """The network's parameters by name, scaled and shifted. Its own count as constants: they get no gradient."""
        weights = {name: p.detach() for name, p in net.named_parameters()}
        weights |= {name: weights[name] * scale for name, scale in zip(self.scaled, self.scales, strict=True)}
        return weights | {name: weights[name] + shift for name, shift in zip(self.shifted, self.shifts, strict=True)}

    def moved(self) -> dict[str, Tensor]:
        """Mean distance of the scales from 1 and of the shifts from 0."""
        parts = {"scale": [scale - 1 for scale in self.scales], "shift": list(self.shifts)}
        return {name: torch.cat([v.flatten() for v in values]).abs().mean() for name, values in parts.items() if values}


def _scale_shape(weight: Tensor) -> list[int]:
    kept = weight.dim() // 2  # [out, in, h, w]: two, [out, in]: one
    return [*weight.shape[:kept], *[1] * (weight.dim() - kept)]


@contextmanager
def statistics_kept(net: nn.Module) -> Iterator[None]:
    """Inside, batch norms of mode `running` normalise by their running statistics, in training too."""
    norms = [norm for norm in batch_norms(net) if norm.training]
    for norm in norms:
        norm.training = False
    try:
        yield
    finally:
        for norm in norms:
            norm.training = True
