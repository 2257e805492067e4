"""A user's own pictures, prepared as a data set prepares its images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metarun.images.decoding import decode_file
from metarun.images.files import open_regular, read_bounded
from metarun.images.pixels import ImageDecoder
from metarun.images.store import Normalisation

Picture = str | os.PathLike[str] | Image.Image | np.ndarray
PROPER = "a path, a PIL image, or a uint8 array [H, W] or [H, W, C] with C in 1, 3, 4"


@dataclass(frozen=True)
class Preparation:
    """Prepares pictures as the data set of a run does: `learner.adapt(preparation(paths), labels)`.

    It holds no images and can be pickled. `dataclasses.replace` makes another, e.g. with `inverted=False` for pictures
    whose ink is light already.

    Args:
        channels: 1 (grey) or 3 (RGB).
        height, width: in pixels; pictures of another size are stretched to it.
        background: colour that shows through transparent pixels.
        inverted: light and dark are exchanged, so that dark ink on white paper becomes ink (1) on nothing (0).
        mean, std: per channel, of pixels in [0, 1], to normalise with; None leaves pixels in [0, 1].
    """

    channels: int
    height: int
    width: int
    background: str = "white"
    inverted: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __call__(self, pictures: Picture | Sequence[Picture]) -> Tensor:
        """Prepare pictures.

        Args:
            pictures: one, or several: paths, PIL images of any mode, uint8 arrays `[H, W]` or `[H, W, C]`.

        Returns:
            `[n, C, H, W]` (float32), on the CPU.

        Raises:
            DataError: a file cannot be read as an image; the message names it.
            ValueError: a picture is none of these, or its pixels have no stated range.
        """
        decoder = ImageDecoder(self.channels, self.height, self.width, self.background)
        pixels = [_pixels(picture, decoder) for picture in _several(pictures)]
        shape = (len(pixels), self.channels, self.height, self.width)
        x = torch.from_numpy(np.array(pixels, dtype=np.uint8).reshape(shape))
        x = (255 - x if self.inverted else x).to(torch.float32)
        return Normalisation(x.device, self.mean, self.std).apply_(x)


def _several(pictures: Any) -> Iterator[Any]:
    single = isinstance(pictures, str | os.PathLike | Image.Image)
    if isinstance(pictures, np.ndarray):
        single = pictures.ndim < 4
    return iter([pictures] if single else pictures)


def _pixels(picture: Any, decoder: ImageDecoder) -> np.ndarray:
    if isinstance(picture, str | os.PathLike):
        with open_regular(Path(picture)) as file:
            return decode_file(read_bounded(file, str(picture)), str(picture), decoder).pixels
    if isinstance(picture, Image.Image):
        return decoder.prepare(picture)
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8:
        if picture.ndim == 2:
            return decoder.prepare(Image.fromarray(picture))
        if picture.ndim == 3 and picture.shape[-1] in (1, 3, 4):
            return decoder.prepare(Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture))
    array = isinstance(picture, np.ndarray)
    form = f"an array {list(picture.shape)} of {picture.dtype}" if array else type(picture).__name__
    raise ValueError(f"a picture must be {PROPER}; got {form}")
