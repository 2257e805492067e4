"""A fully connected network; MAML's sinusoid network is 1-40-40-1 with ReLU."""

from __future__ import annotations

from collections import OrderedDict
from math import prod

from torch import Tensor, nn

from metarun.checks import Count, require, require_choice
from metarun.layers.init import initialise
from metarun.layers.norm import make_norm

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "sigmoid": nn.Sigmoid}


class MLP(nn.Module):
    """Maps `x [n, *in_shape]` to `[n, outputs]`, or to `[n, hidden[-1]]` if `outputs` is None.

    Args:
        in_shape: shape of one input, which is flattened.
        outputs: width of the last, linear layer. None: no last layer, the output is that of the last activation.
        hidden: widths of the hidden layers.
        activation: `relu`, `tanh`, `elu` or `sigmoid`.
        norm: normalisation before each activation, a kind of `metarun.layers.norm.make_norm`.
        init: a name of `metarun.layers.init.initialise`.

    Raises:
        ValueError: an unknown activation, norm or init, or no hidden layer if `outputs` is None.
    """

    def __init__(
        self, in_shape: tuple[int, ...], outputs: int | None, hidden: list[Count], activation: str, norm: str, init: str
    ) -> None:
        super().__init__()
        require_choice("backbone.activation", activation, ACTIVATIONS)
        holds = outputs is not None or len(hidden) > 0
        require("backbone.hidden", hidden, holds, "of at least one layer for a learner that uses its features")
        widths = [prod(in_shape), *hidden]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (width_in, width_out) in enumerate(zip(widths, widths[1:], strict=False), 1):
            layers[f"linear{number}"] = nn.Linear(width_in, width_out)
            if norm != "none":  # an identity costs a module call, which matters in a network this small
                layers[f"norm{number}"] = make_norm(norm, width_out)
            layers[f"activation{number}"] = ACTIVATIONS[activation]()
        self.features = nn.Sequential(layers)
        self.head = nn.Identity() if outputs is None else nn.Linear(widths[-1], outputs)
        initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x.flatten(1)))
