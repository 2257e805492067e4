"""DropBlock: in training, set squares of feature maps to zero; squares of one position are dropout.

Ghiasi, Lin, Le: DropBlock: A regularization method for convolutional networks, NeurIPS 2018, arXiv 1810.12890, as in
MetaOptNet's code (kjunelee/MetaOptNet, models/ResNet12_embedding.py). Masks are random inputs: drawn under vmap, they
would differ between a batch, its micro-batches and a loop. Learners draw them by `draw_masks`, and apply them in
`dropping`.

Differences from MetaOptNet's code
    - There the rate of the squares grows over 40,000 forward passes, a third of its training; here it grows over the
      first third of training (`RAMP`), whatever its length.
    - What is left is scaled up by the share that is kept in a task; there by that of all tasks of a forward pass, with
      which a gradient would depend on how tasks are put into micro-batches and processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RAMP = 1 / 3  # fraction of training after which squares are dropped at the full rate


class DropBlock(nn.Module):
    """Sets masked squares to zero and scales up the rest; the identity in evaluation and outside `dropping`.

    Args:
        shape: (channels, height, width) of the input maps.
        rate: expected fraction that is dropped, in [0, 1).
        size: side of a square in positions, at most that of the map; 1: dropout.

    Attributes:
        mask: what is dropped, inside `dropping`.
        tasks: number of tasks that the maps belong to, the same number of consecutive maps each; each task is scaled up
            by what is kept of it.
    """

    def __init__(self, shape: tuple[int, int, int], rate: float, size: int) -> None:
        super().__init__()
        self.shape, self.rate, self.size = shape, rate, min(size, *shape[1:])
        self.mask: Tensor | None = None  # [n, channels, height - size + 1, ...], bool: corners of squares
        self.tasks = 1

    def sample(self, rows: tuple[int, ...], progress: Tensor, generator: torch.Generator) -> Tensor:
        """Sample a mask for `rows` maps, `[*rows, ...]`, bool: true at the upper left corners of squares."""
        channels, height, width = self.shape
        corners = (height - self.size + 1, width - self.size + 1)
        gamma = torch.as_tensor(self.rate, device=generator.device)
        if self.size > 1:
            gamma = gamma * (progress / RAMP).clamp(max=1) * height * width / (self.size**2 * corners[0] * corners[1])
        return torch.rand(*rows, channels, *corners, generator=generator, device=generator.device) < gamma

    def forward(self, x: Tensor) -> Tensor:
        if self.mask is None or not self.training:
            return x
        if self.size == 1:
            return x * ~self.mask / (1 - self.rate)
        padded = F.pad(self.mask.to(x.dtype), [self.size - 1] * 4)
        kept = 1 - F.max_pool2d(padded, self.size, stride=1)  # [n, channels, height, width]
        by_task = kept.unflatten(0, (self.tasks, -1))
        scaled = by_task / by_task.mean((1, 2, 3, 4), keepdim=True).clamp(min=1e-6)
        return x * scaled.flatten(0, 1)

    def extra_repr(self) -> str:
        return f"rate={self.rate}, size={self.size}"


def drop_blocks(net: nn.Module) -> list[DropBlock]:
    """The DropBlocks of a network, in the order of its modules."""
    return [module for module in net.modules() if isinstance(module, DropBlock)]


def draw_masks(net: nn.Module, rows: tuple[int, ...], progress: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Sample a mask `[*rows, ...]` for each DropBlock of a network; an empty list if it has none."""
    return [block.sample(rows, progress, generator) for block in drop_blocks(net)]


@contextmanager
def dropping(net: nn.Module, masks: Sequence[Tensor], tasks: int = 1) -> Iterator[None]:
    """Inside, the network's DropBlocks apply the masks `[n, ...]`, one each; without masks they drop nothing.

    Args:
        net: the network.
        masks: of each of its DropBlocks.
        tasks: number of tasks that the n maps belong to, one after the other, n / tasks maps each.
    """
    blocks = drop_blocks(net) if masks else []
    for block, mask in zip(blocks, masks, strict=True):
        block.mask, block.tasks = mask, tasks
    try:
        yield
    finally:
        for block in blocks:
            block.mask, block.tasks = None, 1
