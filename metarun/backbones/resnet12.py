"""The ResNet-12 of few-shot learning: learn2learn's, with a batch norm that is correct under vmap.

Lee, Maji, Ravichandran, Soatto: Meta-Learning with Differentiable Convex Optimization, CVPR 2019,
arXiv 1904.03758 (widths 64, 160, 320, 640), after Oreshkin, Lopez, Lacoste, NeurIPS 2018 (64, 128, 256, 512).
Module used: learn2learn.vision.models.resnet12.ResNet12Backbone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metarun.checks import require, require_int, require_interval
from metarun.layers.drop_block import DropBlock
from metarun.layers.init import initialise
from metarun.layers.norm import make_norm


class ResNet12(nn.Module):
    """Four residual blocks, each of which halves the image; `[n, C, H, W]` to `[n, outputs]` or to features.

    Features are means over positions, `[n, 640]` (`[n, 512]` if not `wider`). DropBlock is metarun's
    (metarun/layers/drop_block.py), since learn2learn's draws random numbers inside and counts its calls.

    Args:
        in_shape: `(C, H, W)`, at least 16 pixels high and wide.
        outputs: width of the last, linear layer. None: no last layer, the output is the features.
        wider: filters 64, 160, 320, 640 instead of 64, 128, 256, 512.
        norm: a kind of `metarun.layers.norm.make_norm`.
        init: a name of `metarun.layers.init.initialise`; `torch` is learn2learn's own (He, fan out).
        drop_rate: fraction of the maps after each block that is dropped in training: single positions after the first
            two blocks, squares after the last two; MetaOptNet's is 0.1. For learners with `supports_dropblock`.
        drop_size: side of a square, in positions.

    Raises:
        ValueError: inputs that are not images or too small, or an argument out of range.
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
        what = f"another for inputs of shape {tuple(in_shape)}: resnet12 takes images (C, H, W) of at least 16x16"
        require("backbone", "resnet12", len(in_shape) == 3 and min(in_shape[1:]) >= 16, what)
        require_interval("backbone", "[0, 1)", drop_rate=drop_rate)
        require_int("backbone", minimum=1, drop_size=drop_size)
        from learn2learn.vision.models.resnet12 import ResNet12Backbone  # takes seconds to import

        original = ResNet12Backbone(channels=in_shape[0], wider=wider, dropblock_dropout=0.0)
        # Its own pooling is 5x5, for images of 84x84 only, for which the mean over positions is the same.
        self.blocks = nn.Sequential()
        widths = (64, 160, 320, 640) if wider else (64, 128, 256, 512)
        for number, width in enumerate(widths):
            self.blocks.add_module(str(number), getattr(original, f"layer{number + 1}"))
            if drop_rate:
                shape = (width, in_shape[1] >> number + 1, in_shape[2] >> number + 1)
                self.blocks.add_module(f"drop{number}", DropBlock(shape, drop_rate, drop_size if number > 1 else 1))
        replace_norms(self.blocks, norm)
        self.head = nn.Identity() if outputs is None else nn.Linear(widths[-1], outputs)
        initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.mean(self.blocks(x), (-2, -1)))


def replace_norms(module: nn.Module, norm: str) -> None:
    """Replace every `nn.BatchNorm2d` of a module by `make_norm(norm, channels)`, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, make_norm(norm, child.num_features))
        else:
            replace_norms(child, norm)
