"""Tasks out of images: what there is of pixels, normalisation and augmentation; `class_tasks.py` counts and draws."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from metarun.checks import require
from metarun.data.class_tasks import ClassTasks
from metarun.images.store import Images, ImageStore
from metarun.tasks import Split

if TYPE_CHECKING:
    from metarun.images.augment import Augment


class ImageTasks(ClassTasks):
    """Few-shot classification of images; they are kept on the device as bytes, and normalised when drawn.

    Args:
        channels: 1 (grey) or 3 (RGB).
        mean, std: per channel, of pixels in [0, 1], to normalise with; None for neither.
        augment: names of random changes of training images, one after the other: `crop`, `flip`, `jitter`.
        sizes: the arguments of `ClassTasks`.

    Raises:
        ValueError: an argument is out of range.
    """

    noun: ClassVar[str] = "images"

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


def _check_normalisation(channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    require("data.channels", channels, channels in (1, 3), "1 (grey) or 3 (RGB)")
    if mean is None and std is None:
        return
    if mean is None or std is None or not len(mean) == len(std) == channels or min(std) <= 0:
        raise ValueError(
            f"data.mean and data.std must be {channels} numbers each, std positive, or null for both; "
            f"got {mean!r} and {std!r}"
        )
