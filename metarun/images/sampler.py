"""TODO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metarun.images.store import Images
from metarun.sampling import draw_below, draw_distinct
from metarun.tasks import (
    Examples,
    Pairs,
    Presentations,
    Task,
)

if TYPE_CHECKING:
    from metarun.images.augment import Augment


class Sampler:
    """Draws episodes, flat mini-batches and pairs from one part's images.

    Arguments
        images: the part's images; they are moved to `device`.
        mean, std: per channel, of pixels in [0, 1]; None leaves pixels in [0, 1].
        change: what is done to images at random before they are normalised (tasks/augment.py); None: nothing.
    """

    def __init__(
        self,
        images: Images,
        device: torch.device,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        augment: Augment | None = None,
    ):
        self.augment = augment
        self.pixels = images.pixels.to(device)
        self.counts = images.counts.to(device)
        self.starts = images.starts.to(device)
        self.classes = len(images.names)
        self.fewest, self.most = int(images.counts.min()), int(images.counts.max())
        self.scale = torch.tensor(1 / 255, device=device)
        self.shift: Tensor | None = None
        if mean is not None and std is not None:
            spread = torch.tensor(list(std), device=device).view(-1, 1, 1)
            self.scale = 1 / (255 * spread)
            self.shift = -torch.tensor(list(mean), device=device).view(-1, 1, 1) / spread

    def episodes(
        self, tasks: int, ways: int, shots: int, queries: int, generator: torch.Generator, classes_per_way: int = 1
    ) -> Task:
        """`support` of `[T, ways*merged*shots, ...]`, `query` of `[T, ways*merged*queries, ...]`, class after class.

        Classes are distinct within a task, images distinct within a class, so support and query are disjoint. Of
        `merged` classes each, one after the other, the labels are the same.
        """
        classes = draw_distinct(tasks, self.classes, ways * classes_per_way, generator)
        return self.episodes_of(classes, shots, queries, generator, classes_per_way)

    def episodes_of(
        self, classes: Tensor, shots: int, queries: int, generator: torch.Generator, classes_per_way: int = 1
    ) -> Task:
        """`episodes` of given classes, `[T, ways*merged]`, distinct within a task."""
        tasks, drawn = classes.shape
        k = shots + queries
        index = self.of_classes(classes.flatten(), k, generator).view(tasks, drawn, k)
        label = torch.arange(drawn, device=generator.device) // classes_per_way
        sets = []
        for part, n in ((index[..., :shots], shots), (index[..., shots:], queries)):
            y = label.repeat_interleave(n).repeat(tasks, 1)
            sets.append(Examples(self.images(part.reshape(tasks, drawn * n), generator), y))
        return Task(*sets)

    def batches(self, tasks: int, batch: int, generator: torch.Generator) -> Examples:
        """`x [T, batch, ...]`, `y [T, batch]`: images of the part, all equally likely, with their classes."""
        index = torch.randint(len(self.pixels), (tasks, batch), generator=generator, device=generator.device)
        y = torch.searchsorted(self.starts, index, right=True) - 1
        return Examples(self.images(index, generator), y)

    def pairs(self, tasks: int, batch: int, generator: torch.Generator) -> Pairs:
        """`x [T, batch, 2, ...]`, `y [T, batch]`: half of the pairs, the first, are of one class, half of two.

        All classes, or all ordered choices of two, are equally likely, and all images of a class; a pair of one class
        holds two distinct images. `batch` is even.
        """
        n = tasks * batch // 2
        one = torch.randint(self.classes, (n,), generator=generator, device=generator.device)
        same = self.of_classes(one, 2, generator)
        different = self.of_classes(draw_distinct(n, self.classes, 2, generator).flatten(), 1, generator)
        index = torch.cat([pairs.view(tasks, batch // 2, 2) for pairs in (same, different)], 1)
        y = torch.tensor([1, 0], device=generator.device).repeat_interleave(batch // 2).repeat(tasks, 1)
        return Pairs(self.images(index, generator), y)

    def sequences(self, tasks: int, ways: int, shown: int, shots: int, generator: torch.Generator) -> Presentations:
        """`x [T, ways*shown, ...]`: `shown` distinct images of each of `ways` classes, all in a random order."""
        classes = draw_distinct(tasks, self.classes, ways, generator).flatten()
        index = self.of_classes(classes, shown, generator).view(tasks, ways * shown)
        order = torch.rand(tasks, ways * shown, generator=generator, device=generator.device).argsort(1)
        y = order // shown
        member = y.unsqueeze(-1) == torch.arange(ways, device=y.device)
        before = (member.cumsum(1) * member).sum(-1) - 1  # of the same class
        return Presentations(self.images(index.gather(1, order), generator), y, before == shots)

    def of_classes(self, classes: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """`classes [n]` -> `[n, k]`: numbers of k distinct images of each."""
        if self.fewest == self.most:
            within = draw_distinct(len(classes), self.most, k, generator)
        else:
            within = draw_below(self.counts[classes], self.most, k, generator)
        return self.starts[classes][:, None] + within

    def images(self, index: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images by number, float32, changed (by a generator) and scaled: `index [...]` -> `[..., C, H, W]`."""
        raw = self.pixels.index_select(0, index.flatten())
        x = raw.to(torch.float32)  # three times as fast as a product of mixed types
        if self.augment is not None and generator is not None:
            x = self.augment(x / 255, generator) * 255
        if self.shift is None:
            x.mul_(self.scale)
        else:
            torch.addcmul(self.shift, x, self.scale, out=x)
        return x.view(*index.shape, *raw.shape[1:])
