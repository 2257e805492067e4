"""Initialisation of weights. It is part of what a paper claims: MT-net's robustness depends on its own."""

from __future__ import annotations

from torch import nn

from metarun.checks import require_choice

INITS = ("torch", "truncated_normal", "xavier")


def initialise(net: nn.Module, init: str) -> nn.Module:
    """Initialise all linear and convolution layers of a network, in place.

    Args:
        net: the network; normalisation layers are not changed.
        init: `torch` (each layer's own default); `truncated_normal` (standard deviation 0.01, truncated at two of them,
            zero bias: fully connected layers in MAML's and MT-net's code); `xavier` (uniform, zero bias: their
            convolutions).

    Returns:
        The network.

    Raises:
        ValueError: an unknown name.
    """
    require_choice("backbone.init", init, INITS)
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
