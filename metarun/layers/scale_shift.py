"""Scaling and shifting of a frozen network by few parameters (Sun et al. 2019, arXiv 1812.02391).

W o Phi_1 replaces each layer's weights W, and b + Phi_2 its biases b. Official code: github
yaoyao-liu/meta-transfer-learning, pytorch/models/conv2d_mtl.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from metarun.layers.norm import batch_norms


class ScaleShift(nn.Module):
    """Phi_1 and Phi_2 of all convolution and linear layers of a network; initially they change nothing.

    Args:
        net: the network; only the names and shapes of its layers are kept.

    Attributes:
        scales: Phi_1, initially ones; for a convolution one per kernel, `[out, in, 1, 1]`, for a linear layer one per
            unit, `[out, 1]`.
        shifts: Phi_2, initially zeros, `[out]`; for layers with biases.

    Raises:
        ValueError: the network has no such layer.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        layers = [(name, m) for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        if not layers:
            raise ValueError("backbone must have convolutions or linear layers to scale and shift; got none")
        self.scaled = [f"{name}.weight" for name, _ in layers]
        self.scales = nn.ParameterList(torch.ones(_scale_shape(m.weight)) for _, m in layers)
        self.shifted = [f"{name}.bias" for name, m in layers if m.bias is not None]
        self.shifts = nn.ParameterList(torch.zeros_like(m.bias) for _, m in layers if m.bias is not None)

    def forward(self, net: nn.Module) -> dict[str, Tensor]:
        """The network's parameters by name, scaled and shifted. Its own are constants, which get no gradient."""
        weights = {name: p.detach() for name, p in net.named_parameters()}
        weights |= {name: weights[name] * scale for name, scale in zip(self.scaled, self.scales, strict=True)}
        return weights | {name: weights[name] + shift for name, shift in zip(self.shifted, self.shifts, strict=True)}

    def moved(self) -> dict[str, Tensor]:
        """The mean distance of the scales from 1 and of the shifts from 0."""
        parts = {"scale": [scale - 1 for scale in self.scales], "shift": list(self.shifts)}
        return {name: torch.cat([v.flatten() for v in values]).abs().mean() for name, values in parts.items() if values}


def _scale_shape(weight: Tensor) -> list[int]:
    kept = weight.dim() // 2  # [out, in, h, w]: two, [out, in]: one
    return [*weight.shape[:kept], *[1] * (weight.dim() - kept)]


@contextmanager
def statistics_kept(net: nn.Module) -> Iterator[None]:
    """Inside, batch norms of mode `running` use their running statistics, also in training."""
    norms = [norm for norm in batch_norms(net) if norm.training]
    for norm in norms:
        norm.training = False
    try:
        yield
    finally:
        for norm in norms:
            norm.training = True
