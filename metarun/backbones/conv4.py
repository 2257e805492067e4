"""The convolutional network of few-shot learning (Vinyals et al. 2016; MAML's code: cbfinn/maml, maml.py)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from metarun.checks import Count, is_int, require, require_choice, require_positive
from metarun.layers.init import initialise
from metarun.layers.norm import make_norm


class Conv4(nn.Module):
    """Blocks of 3x3 convolution, normalisation and ReLU; `[n, C, H, W]` to `[n, outputs]` or to features.

    Args:
        in_shape: `(C, H, W)`.
        outputs: width of the last, linear layer. None: no last layer, the output is the features.
        filters: channels of every block.
        blocks: number of blocks.
        downsample: `stride` (convolutions of stride 2, no pooling: MAML's Omniglot network) or `max_pool` (2x2
            after each block: its mini-ImageNet network).
        features: `mean` over positions (MAML's Omniglot network), `flatten`, or `map`: unchanged,
            `[n, filters, h, w]`, for learners that use no last layer.
        norm: a kind of `metarun.layers.norm.make_norm`.
        init: a name of `metarun.layers.init.initialise`.
        pools: number of leading blocks that downsample; None: all.
        head_std: standard deviation of the last layer's initial weights, which are normal (1 in MAML's Omniglot
            network); None: as `init` says.

    Attributes:
        out_shape: shape of the features of one example, before the last layer.

    Raises:
        ValueError: an unknown choice, a deviation that is not above 0, or images too small for the number of blocks.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        outputs: int | None,
        filters: Count,
        blocks: Count,
        downsample: str,
        features: str,
        norm: str,
        init: str,
        pools: int | None = None,
        head_std: float | None = None,
    ) -> None:
        super().__init__()
        if head_std is not None:
            require_positive("backbone", head_std=head_std)
        _check(in_shape, outputs, blocks, downsample, features, pools)
        channels, *size = in_shape
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(1, blocks + 1):
            halving = downsample if pools is None or number <= pools else ""
            layers[f"conv{number}"] = nn.Conv2d(channels, filters, 3, stride=2 if halving == "stride" else 1, padding=1)
            layers[f"norm{number}"] = make_norm(norm, filters)
            layers[f"relu{number}"] = nn.ReLU()
            if halving == "max_pool":
                layers[f"pool{number}"] = nn.MaxPool2d(2)
            size = [{"stride": -(-side // 2), "max_pool": side // 2}.get(halving, side) for side in size]
            channels = filters
        what = f"small enough to leave a position of images of {in_shape[1]}x{in_shape[2]}"
        require("backbone.blocks", blocks, min(size) >= 1, what)
        self.blocks = nn.Sequential(layers)
        self.features = features
        width = filters if features == "mean" else filters * size[0] * size[1]
        self.out_shape = (filters, *size) if features == "map" else (width,)
        self.head = nn.Identity() if outputs is None else nn.Linear(width, outputs)
        initialise(self, init)
        if head_std is not None and isinstance(self.head, nn.Linear):
            nn.init.normal_(self.head.weight, std=head_std)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        if self.features == "mean":
            x = x.mean((-2, -1))
        elif self.features == "flatten":
            x = torch.flatten(x, 1)
        return self.head(x)


def _check(
    in_shape: tuple[int, ...], outputs: int | None, blocks: Count, downsample: str, features: str, pools: int | None
) -> None:
    holds = pools is None or (is_int(pools) and pools <= blocks)
    require("backbone.pools", pools, holds, f"null or an integer from 0 to backbone.blocks={blocks}")
    require_choice("backbone.downsample", downsample, ("stride", "max_pool"))
    require_choice("backbone.features", features, ("mean", "flatten", "map"))
    holds = features != "map" or outputs is None
    require("backbone.features", features, holds, "mean or flatten for a learner that does not compare feature maps")
    what = f"mlp, linear or pixels for inputs of shape {tuple(in_shape)}, which are not images (C, H, W)"
    require("backbone", "conv4", len(in_shape) == 3, what)
