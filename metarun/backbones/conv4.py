"""The four-block convolutional network of the few-shot literature (Vinyals 2016; MAML's code: cbfinn/maml, maml.py)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from metarun.layers.init import initialise
from metarun.layers.norm import make_norm


class Conv4(nn.Module):
    """Blocks of 3x3 convolution, normalisation and ReLU; `[n, C, H, W]` to `[n, outputs]` or to features.

    Args:
        in_shape: `(C, H, W)`.
        outputs: width of the last, linear layer. None: no last layer, the network ends in its features.
        filters: channels of every block.
        blocks: how many blocks.
        downsample: `stride` (convolutions of stride 2, no pooling: MAML's Omniglot network) or `max_pool` (2x2
            after each block: its mini-ImageNet network).
        features: `mean` over positions (MAML's Omniglot network), `flatten`, or `map`: as they are,
            `[n, filters, h, w]`, for a learner that has no use for a last layer.
        norm: a name of `metarun.layers.norm.make_norm`.
        init: a name of `metarun.layers.init.initialise`.
        pools: only the first so many blocks downsample; None: all.

    Attributes:
        out_shape: shape of one feature, before a last layer.

    Raises:
        ValueError: an unknown choice, or images too small for the number of blocks.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        outputs: int | None,
        filters: int,
        blocks: int,
        downsample: str,
        features: str,
        norm: str,
        init: str,
        pools: int | None = None,
    ) -> None:
        super().__init__()
        _refuse_unknown(in_shape, outputs, blocks, downsample, features, pools)
        channels, *size = in_shape
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(1, blocks + 1):
            halves = downsample if pools is None or number <= pools else ""
            layers[f"conv{number}"] = nn.Conv2d(channels, filters, 3, stride=2 if halves == "stride" else 1, padding=1)
            layers[f"norm{number}"] = make_norm(norm, filters)
            layers[f"relu{number}"] = nn.ReLU()
            if halves == "max_pool":
                layers[f"pool{number}"] = nn.MaxPool2d(2)
            size = [{"stride": -(-side // 2), "max_pool": side // 2}.get(halves, side) for side in size]
            channels = filters
        if min(size) < 1:
            raise ValueError(f"backbone.blocks={blocks} leaves nothing of images of {in_shape[1]}x{in_shape[2]}")
        self.blocks = nn.Sequential(layers)
        self.features = features
        width = filters if features == "mean" else filters * size[0] * size[1]
        self.out_shape = (filters, *size) if features == "map" else (width,)
        self.head = nn.Identity() if outputs is None else nn.Linear(width, outputs)
        initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        if self.features == "mean":
            x = x.mean((-2, -1))
        elif self.features == "flatten":
            x = torch.flatten(x, 1)
        return self.head(x)


def _refuse_unknown(
    in_shape: tuple[int, ...], outputs: int | None, blocks: int, downsample: str, features: str, pools: int | None
) -> None:
    if pools is not None and not 0 <= pools <= blocks:
        raise ValueError(f"backbone.pools must be null or 0 to blocks={blocks}; got {pools!r}")
    if downsample not in ("stride", "max_pool"):
        raise ValueError(f"backbone.downsample must be stride or max_pool; got {downsample!r}")
    if features not in ("mean", "flatten", "map"):
        raise ValueError(f"backbone.features must be mean, flatten or map; got {features!r}")
    if features == "map" and outputs is not None:
        raise ValueError("backbone.features=map is for learners that compare feature maps; this one needs a vector")
    if len(in_shape) != 3:
        raise ValueError(
            f"backbone conv4 takes images (C, H, W); the data has inputs of shape {tuple(in_shape)}, "
            "for which there is backbone=mlp"
        )
