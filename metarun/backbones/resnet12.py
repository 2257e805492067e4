"""The ResNet-12 of few-shot learning, with a batch norm that is correct under vmap.

Lee, Maji, Ravichandran, Soatto: Meta-Learning with Differentiable Convex Optimization, CVPR 2019,
arXiv 1904.03758 (widths 64, 160, 320, 640), after Oreshkin, Lopez, Lacoste, NeurIPS 2018 (64, 128, 256, 512).
Official code: kjunelee/MetaOptNet, models/ResNet12_embedding.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.checks import require, require_int, require_interval
from metarun.layers.drop_block import DropBlock
from metarun.layers.init import initialise
from metarun.layers.norm import make_norm

SLOPE = 0.1  # of the leaky ReLU


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions beside one of 1x1, each normalised, then their sum halved: `[n, C, H, W]` to
    `[n, width, H // 2, W // 2]`.

    Args:
        channels: C.
        width: filters.
        norm: a kind of `metarun.layers.norm.make_norm`.
    """

    def __init__(self, channels: int, width: int, norm: str) -> None:
        super().__init__()
        # The order in which weights are drawn is that of learn2learn's ResNet-12, whose weights runs began with once.
        downsample = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), make_norm(norm, width))
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 3, padding=1, bias=False), make_norm(norm, width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), make_norm(norm, width)
        self.conv3, self.bn3 = nn.Conv2d(width, width, 3, padding=1, bias=False), make_norm(norm, width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out = F.leaky_relu(self.bn1(self.conv1(x)), SLOPE)
        out = F.leaky_relu(self.bn2(self.conv2(out)), SLOPE)
        out = self.bn3(self.conv3(out)) + self.downsample(x)
        return F.max_pool2d(F.leaky_relu(out, SLOPE), 2)


class ResNet12(nn.Module):
    """Four residual blocks, each of which halves the image; `[n, C, H, W]` to `[n, outputs]` or to features.

    Features are means over positions, `[n, 640]` (`[n, 512]` if not `wider`); the official pooling of 5x5 is for images
    of 84x84, where it is the same.

    Args:
        in_shape: `(C, H, W)`, at least 16 pixels high and wide.
        outputs: width of the last, linear layer. None: no last layer, the output is the features.
        wider: filters 64, 160, 320, 640 instead of 64, 128, 256, 512.
        norm: a kind of `metarun.layers.norm.make_norm`.
        init: a name of `metarun.layers.init.initialise`; `torch` is the official one (He, fan out).
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
        self.blocks = nn.Sequential()
        widths = (64, 160, 320, 640) if wider else (64, 128, 256, 512)
        channels = in_shape[0]
        for number, width in enumerate(widths):
            self.blocks.add_module(str(number), nn.Sequential(ResidualBlock(channels, width, norm)))
            if drop_rate:
                shape = (width, in_shape[1] >> number + 1, in_shape[2] >> number + 1)
                self.blocks.add_module(f"drop{number}", DropBlock(shape, drop_rate, drop_size if number > 1 else 1))
            channels = width
        for module in self.blocks.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")
        self.head = nn.Identity() if outputs is None else nn.Linear(widths[-1], outputs)
        initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.mean(self.blocks(x), (-2, -1)))
