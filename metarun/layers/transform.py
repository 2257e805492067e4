"""A square linear map after every linear and convolution layer, for T-net and MT-net.

A layer h = W x + b becomes T (W x + b): the bias is inside, normalisation and activation stay outside. After a
convolution T mixes the channels of each position, as a 1x1 convolution. T is initially the identity, which leaves the
network's function as it is. Lee and Choi, ICML 2018, section 3.1; yoonholee/MT-net, maml.py (forward_fc_withT,
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
        transform: False leaves T out, at no cost; the names of the other parameters stay the same.
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
    """Replace every linear and convolution layer of a network by a `Transformed`, in place.

    Returns:
        The network.

    Raises:
        ValueError: the network has no such layer.
    """
    _replace_layers(net, transform)
    if not any(True for _ in transformed(net)):
        raise ValueError("backbone must have linear or convolution layers to put a transform after; got none")
    return net


def transformed(net: nn.Module) -> Iterator[tuple[str, Transformed]]:
    """Names and modules of the layers made by `transform_layers`, in the order of the network's modules."""
    return ((name, module) for name, module in net.named_modules() if isinstance(module, Transformed))


def _replace_layers(module: nn.Module, transform: bool) -> None:
    for name, child in module.named_children():
        if isinstance(child, Layer):
            setattr(module, name, Transformed(child, transform))
        else:
            _replace_layers(child, transform)
