"""Images of one split: as decoded, and as the sampler's store, on the device and normalised when taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from metarun.images.augment import Augment  # torchvision takes a second to import


@dataclass(frozen=True)
class Images:
    """Decoded images, class after class.

    Attributes:
        pixels: `[images, C, H, W]` (uint8).
        names: names of the classes.
        counts: `[classes]` (int64), images of each; class c begins at `starts[c]`.
        notes: what is worth a word about them, such as that they were enlarged.
    """

    pixels: Tensor
    names: tuple[str, ...]
    counts: Tensor
    notes: tuple[str, ...] = ()

    @property
    def starts(self) -> Tensor:
        return self.counts.cumsum(0) - self.counts


class Normalisation:
    """From bytes to floats: `x / 255`, less the mean and divided by the standard deviation where these are given.

    Args:
        device: of the images.
        mean, std: per channel, of pixels in [0, 1]; None leaves pixels in [0, 1].
    """

    def __init__(self, device: torch.device, mean: Sequence[float] | None, std: Sequence[float] | None):
        self.scale = torch.tensor(1 / 255, device=device)
        self.shift: Tensor | None = None
        if mean is not None and std is not None:
            spread = torch.tensor(list(std), device=device).view(-1, 1, 1)
            self.scale = 1 / (255 * spread)
            self.shift = -torch.tensor(list(mean), device=device).view(-1, 1, 1) / spread

    def apply_(self, x: Tensor) -> Tensor:
        """`x [n, C, H, W]` (float32) from 0 to 255, normalised in place."""
        scale = self.scale.to(x.device)
        return x.mul_(scale) if self.shift is None else torch.addcmul(self.shift.to(x.device), x, scale, out=x)


class ImageStore:
    """Images on a device, looked up by number (a `Store` of `images/sampler.py`).

    They stay bytes until they are taken: a quarter of the memory of floats.

    Args:
        images: the images; they are moved to `device`.
        device: where they are kept.
        mean, std: as `Normalisation` takes them.
        augment: random change of images in [0, 1], before they are normalised; None for none.
    """

    def __init__(
        self,
        images: Images,
        device: torch.device,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: Augment | None = None,
    ):
        self.names = images.names
        self.counts = images.counts.to(device)
        self.pixels = images.pixels.to(device)
        self.augment = augment
        self.normalisation = Normalisation(device, mean, std)

    def take(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """`index [...]` -> `[..., C, H, W]` (float32), augmented and normalised."""
        raw = self.pixels.index_select(0, index.flatten().to(self.pixels.device)).to(index.device)
        x = raw.to(torch.float32)  # three times as fast as a product of mixed types
        if self.augment is not None:
            x = self.augment(x / 255, generator) * 255
        return self.normalisation.apply_(x).view(*index.shape, *raw.shape[1:])
