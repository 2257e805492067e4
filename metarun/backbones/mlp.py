"""Fully connected network; MAML's sinusoid network is 1-40-40-1 with ReLU."""

from __future__ import annotations

from collections import OrderedDict
from math import prod

from torch import Tensor, nn

from metarun.layers.init import initialise
from metarun.layers.norm import make_norm

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "sigmoid": nn.Sigmoid}


class MLP(nn.Module):
    """Maps `x [n, *in_shape]` to `[n, outputs]`, or to `[n, hidden[-1]]` where `outputs` is None.

    Args:
        in_shape: shape of one input; it is flattened.
        outputs: width of the last, linear layer. None: no last layer, the network ends in its last activation.
        hidden: widths of the hidden layers.
        activation: `relu`, `tanh`, `elu` or `sigmoid`.
        norm: normalisation before each activation, a name of `metarun.layers.norm.make_norm`.
        init: a name of `metarun.layers.init.initialise`.

    Raises:
        ValueError: an unknown activation, norm or init, or no hidden layer where `outputs` is None.
    """

    def __init__(
        self, in_shape: tuple[int, ...], outputs: int | None, hidden: list[int], activation: str, norm: str, init: str
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"backbone.activation must be one of {', '.join(ACTIVATIONS)}; got {activation!r}")
        if outputs is None and not hidden:
            raise ValueError("backbone.hidden must name at least one layer for a learner that uses its features")
        widths = [prod(in_shape), *hidden]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (width_in, width_out) in enumerate(zip(widths, widths[1:], strict=False), 1):
            layers[f"linear{number}"] = nn.Linear(width_in, width_out)
            if norm != "none":  # an identity costs a module call, which a network this small feels
                layers[f"norm{number}"] = make_norm(norm, width_out)
            layers[f"activation{number}"] = ACTIVATIONS[activation]()
        self.features = nn.Sequential(layers)
        self.head = nn.Identity() if outputs is None else nn.Linear(widths[-1], outputs)
        initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x.flatten(1)))
