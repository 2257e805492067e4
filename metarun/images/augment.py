"""Random changes of training images, batched, on the device: each image by its own draw from a generator.

torchvision's own random transforms draw once for a whole batch, from the global generator. These draw for each image,
from the generator of the stream, so that a run can be repeated and resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from metarun.checks import require

PADDING = 8 / 84  # of the image's side, as MetaOptNet and others pad images of 84x84 (kjunelee/MetaOptNet, data/)
JITTER = 0.4  # of brightness, contrast and saturation: factors from 0.6 to 1.4 (the same code)

Augment = Callable[[Tensor, torch.Generator], Tensor]


def crop(x: Tensor, generator: torch.Generator) -> Tensor:
    """`[n, C, H, W]` shifted by up to `PADDING` of its side in both directions, with zeros where nothing was."""
    n, _, height, width = x.shape
    border = max(1, round(PADDING * min(height, width)))
    padded = tv.pad(x, [border] * 4).permute(0, 2, 3, 1)
    top, left = torch.randint(2 * border + 1, (2, n, 1), generator=generator, device=x.device)
    rows = top + torch.arange(height, device=x.device)
    columns = left + torch.arange(width, device=x.device)
    image = torch.arange(n, device=x.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """`[n, C, H, W]`, each mirrored left to right with a probability of one half."""
    mirrored = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < 0.5
    return torch.where(mirrored, tv.horizontal_flip(x), x)


def jitter(x: Tensor, generator: torch.Generator) -> Tensor:
    """`[n, 3, H, W]` in [0, 1], its brightness, contrast and saturation changed, in this order, and cut to [0, 1]."""
    factors = 1 + JITTER * (2 * torch.rand(3, len(x), 1, 1, 1, generator=generator, device=x.device) - 1)
    brightness, contrast, saturation = factors
    x = (x * brightness).clamp(0, 1)
    x = torch.lerp(tv.rgb_to_grayscale(x).mean((-3, -2, -1), keepdim=True), x, contrast).clamp(0, 1)
    return torch.lerp(tv.rgb_to_grayscale(x), x, saturation).clamp(0, 1)


CHANGES: dict[str, Augment] = {"crop": crop, "flip": flip, "jitter": jitter}


def augmentation(names: Sequence[str], channels: int) -> Augment | None:
    """The changes of these names, one after the other; None where there are none.

    Raises:
        ValueError: an unknown name, or `jitter` for images without colours.
    """
    require("data.augment", names, all(name in CHANGES for name in names), f"a list of {', '.join(CHANGES)}")
    allowed = "jitter" not in names or channels == 3
    require("data.augment", names, allowed, f"without jitter, which needs RGB, for images of {channels} channel")
    if not names:
        return None

    def augment(x: Tensor, generator: torch.Generator) -> Tensor:
        for name in names:
            x = CHANGES[name](x, generator)
        return x

    return augment
