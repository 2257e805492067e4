"""A square linear map after every linear and convolution layer: how T-net and MT-net see a network.

A layer h = W x + b becomes T (W x + b): the bias is inside, whatever normalises or activates stays outside. After a
convolution T mixes channels at each position, a 1x1 convolution. T starts as the identity, so that the network's
function does not change. Lee and Choi, ICML 2018, section 3.1; yoonholee/MT-net, maml.py (forward_fc_withT,
forward_conv_withT).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Layer = nn.Linear | nn.Conv2d


class Transformed(nn.Module):
    """T (layer(x)): `[n, d, ...]` to `[n, d, ...]`.

    Args:
        layer: W and b.
        transform: False leaves T out, which costs nothing; the parameters' names stay the same.
    """

    def __init__(self, layer: Layer, transform: bool) -> None:
        super().__init__()
        self.layer = layer
        self.transform = nn.Parameter(torch.eye(len(layer.weight))) if transform else None  # T [d, d]

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if self.transform is None:
            return y
        if y.dim() == 2:
            return F.linear(y, self.transform)
        return F.conv2d(y, self.transform[..., None, None])


def transform_layers(net: nn.Module, transform: bool) -> nn.Module:
    """Put a `Transformed` in the place of every linear and convolution layer of a network, in place.

    Raises:
        ValueError: the network has no such layer.
    """
    _exchange(net, transform)
    if not any(True for _ in transformed(net)):
        raise ValueError("the backbone has no linear and no convolution layer to put a transform after")
    return net


def transformed(net: nn.Module) -> Iterator[tuple[str, Transformed]]:
    """Names and modules of the layers that `transform_layers` put in, in the order of the network's modules."""
    return ((name, module) for name, module in net.named_modules() if isinstance(module, Transformed))


def _exchange(module: nn.Module, transform: bool) -> None:
    for name, child in module.named_children():
        if isinstance(child, Layer):
            setattr(module, name, Transformed(child, transform))
        else:
            _exchange(child, transform)
