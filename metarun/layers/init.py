"""How weights start. The initialisation is part of what a paper claims (MT-net's robustness needs its own)."""

from __future__ import annotations

from torch import nn

INITS = ("torch", "truncated_normal", "xavier")


def initialise(net: nn.Module, init: str) -> nn.Module:
    """Set the weights of all linear and convolution layers, in place.

    Args:
        net: the network; normalisation layers are left alone.
        init: `torch` (each layer's own default); `truncated_normal` (0.01, cut at two standard deviations, zero
            bias: fully connected layers in MAML's and MT-net's code); `xavier` (uniform, zero bias: their
            convolutions).

    Raises:
        ValueError: an unknown name.
    """
    if init not in INITS:
        raise ValueError(f"backbone.init must be one of {', '.join(INITS)}; got {init!r}")
    if init == "torch":
        return net
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            if init == "xavier":
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net
