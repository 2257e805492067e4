"""Tasks out of images: what there is of pixels, normalisation and augmentation; `class_tasks.py` counts and draws.

A data set of images is a subclass with `partitions`, `in_shape` and `load`, and a file conf/data/NAME.yaml of its
arguments. `load` finds the files (`metarun.images.files`), decodes them (`metarun.images.decoding`) and keeps what came
out (`metarun.images.cache`); metarun/data/imagefolder.py is the one to begin from.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from metarun.checks import require, require_int
from metarun.data.class_tasks import ClassTasks
from metarun.images.preparation import Preparation
from metarun.images.store import Images, ImageStore
from metarun.tasks import Split

if TYPE_CHECKING:
    from metarun.images.augment import Augment


class ImageTasks(ClassTasks):
    """Few-shot classification of images; they are kept on the device as bytes, and normalised when drawn.

    Attributes:
        inverted: whether light and dark of the files are exchanged, so that ink on paper is 1 on 0.
        background: the colour that shows through transparent pixels of the files.

    Args:
        channels: 1 (grey) or 3 (RGB).
        mean, std: per channel, of pixels in [0, 1], to normalise with: a learner sees `(x - mean) / std`, `x` from 0
            (black) to 1 (white). None for neither: it sees `x`.
        augment: names of random changes of training images, one after the other: `crop`, `flip`, `jitter`.
        sizes: the arguments of `ClassTasks`.

    Raises:
        ValueError: an argument is out of range.
    """

    noun: ClassVar[str] = "images"
    inverted: ClassVar[bool] = False
    background: str = "white"

    def __init__(
        self,
        *,
        channels: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: Sequence[str] = (),
        **sizes: Any,
    ):
        super().__init__(**sizes)
        _check_normalisation(channels, mean, std)
        self.mean, self.std = mean, std
        self.augment: Augment | None = None
        if augment:
            from metarun.images.augment import augmentation  # torchvision takes a second to import

            self.augment = augmentation(augment, channels)

    @abstractmethod
    def load(self, split: Split) -> Images:
        """The images of one split, from the cache where that holds them.

        Raises:
            DataError: they are missing or unusable.
        """

    def store(self, split: Split) -> ImageStore:
        augment = self.augment if split == "train" else None
        return ImageStore(self.load(split), self.device, self.mean, self.std, augment)

    def preparation(self) -> Preparation:
        """What makes of a user's own pictures inputs as these tasks have them. Needs none of the data."""
        channels, height, width = self.in_shape()
        mean, std = (None if values is None else tuple(values) for values in (self.mean, self.std))
        return Preparation(channels, height, width, self.background, self.inverted, mean, std)


class ColourSquares(ImageTasks):
    """Images of a folder that are made RGB squares of a chosen size; a data set says how they lie there by `load`.

    Args:
        root: folder that holds the data (see `data_roots`).
        size: height and width in pixels.
        sizes: the arguments of `ImageTasks`, without `channels`.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, *, root: str | os.PathLike[str] | None, size: int, **sizes: Any):
        super().__init__(channels=3, **sizes)
        require_int("data", minimum=1, size=size)
        self.root, self.size = root, size

    def in_shape(self, stream: str = "episodes") -> tuple[int, ...]:  # noqa: ARG002  (all streams are of images)
        return (3, self.size, self.size)


def _check_normalisation(channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    require("data.channels", channels, channels in (1, 3), "1 (grey) or 3 (RGB)")
    if mean is None and std is None:
        return
    if mean is None or std is None or not len(mean) == len(std) == channels or min(std) <= 0:
        raise ValueError(
            f"data.mean and data.std must be {channels} numbers each, std positive, or null for both; "
            f"got {mean!r} and {std!r}"
        )
