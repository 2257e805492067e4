"""ResNet-12 of the few-shot literature: learn2learn's, with a batch norm that is right under vmap.

Lee, Maji, Ravichandran, Soatto: Meta-Learning with Differentiable Convex Optimization, CVPR 2019,
arXiv 1904.03758 (widths 64, 160, 320, 640), after Oreshkin, Lopez, Lacoste, NeurIPS 2018 (64, 128, 256, 512).
Module used: learn2learn.vision.models.resnet12.ResNet12Backbone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metarun.layers.drop_block import DropBlock
from metarun.layers.init import initialise
from metarun.layers.norm import make_norm


class ResNet12(nn.Module):
    """Four residual blocks, each halving the image; `[n, C, H, W]` to `[n, outputs]` or to features.

    Features are means over positions, `[n, 640]` (`[n, 512]` if not `wider`). DropBlock is our own
    (backbones/drop_block.py), for learn2learn's draws random numbers inside and counts its calls.

    Args:
        in_shape: `(C, H, W)`, at least 16 pixels high and wide.
        outputs: width of the last, linear layer. None: no last layer, the network ends in its features.
        wider: filters 64, 160, 320, 640 instead of 64, 128, 256, 512.
        norm: a name of `metarun.layers.norm.make_norm`.
        init: a name of `metarun.layers.init.initialise`; `torch` is learn2learn's own (He, fan out).
        drop_rate: share of the maps after each block that is dropped in training: single positions after the first
            two, squares after the last two; MetaOptNet's is 0.1. For learners that draw masks.
        drop_size: side of a square, in positions.

    Raises:
        ValueError: inputs that are no images or too small ones, an unknown norm or init, a bad rate or size.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        outputs: int | None,
        wider: bool,
        norm: str,
        init: str,
        drop_rate: float = 0.0,
        drop_size: int = 5,
    ) -> None:
        super().__init__()
        if len(in_shape) != 3 or min(in_shape[1:]) < 16:
            raise ValueError(
                "backbone resnet12 takes images (C, H, W) of at least 16x16; "
                f"the data has inputs of shape {tuple(in_shape)}"
            )
        if not 0 <= drop_rate < 1 or drop_size < 1:
            raise ValueError(
                "backbone.drop_rate must be at least 0 and below 1, and drop_size at least 1; "
                f"got {drop_rate} and {drop_size}"
            )
        from learn2learn.vision.models.resnet12 import ResNet12Backbone  # takes seconds to import

        whole = ResNet12Backbone(channels=in_shape[0], wider=wider, dropblock_dropout=0.0)
        # Its own pooling is 5x5, for images of 84x84 only; there the mean over positions is the same.
        self.blocks = nn.Sequential()
        widths = (64, 160, 320, 640) if wider else (64, 128, 256, 512)
        for number, width in enumerate(widths):
            self.blocks.add_module(str(number), getattr(whole, f"layer{number + 1}"))
            if drop_rate:
                shape = (width, in_shape[1] >> number + 1, in_shape[2] >> number + 1)
                self.blocks.add_module(f"drop{number}", DropBlock(shape, drop_rate, drop_size if number > 1 else 1))
        exchange_norms(self.blocks, norm)
        self.head = nn.Identity() if outputs is None else nn.Linear(widths[-1], outputs)
        initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.mean(self.blocks(x), (-2, -1)))


def exchange_norms(module: nn.Module, norm: str) -> None:
    """Put `make_norm(norm, channels)` in the place of every `nn.BatchNorm2d` inside, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, make_norm(norm, child.num_features))
        else:
            exchange_norms(child, norm)
