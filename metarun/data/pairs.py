"""Verification: are two images of one class? Learned from pairs of some classes, asked of pairs of others."""

from __future__ import annotations

from typing import Any, ClassVar

from metarun.data.image_tasks import ImageTasks, check_even
from metarun.data.imagefolder import ImageFolder
from metarun.data.omniglot import Omniglot
from metarun.data.synthetic import Synthetic
from metarun.images.store import Images
from metarun.tasks import DataError, Kind, Split


class Verification(ImageTasks):
    """Makes a verification task of images in named parts: goes before their class, `class X(Verification, Images)`.

    A held-out task is a set of pairs of the part's classes, half of them of one class; the mean over tasks of the area
    under its ROC curve is an unbiased estimate of the area for all pairs.

    Arguments
        pairs: pairs of a held-out task, even.
        pair_batch: pairs of a training mini-batch, even.
        The others as in the class of the images, less those of episodes, which are not offered.
    """

    kind: ClassVar[Kind] = "verification"
    streams: ClassVar[tuple[str, ...]] = ("pairs",)
    evaluation_stream: ClassVar[str] = "pairs"

    def __init__(self, *, pairs: int, **sizes: Any):
        # No episode is drawn: the sizes of the smallest.
        least: dict[str, Any] = {"ways": 2, "shots": 1, "queries": 1, "train_ways": 2, "train_queries": 1}
        super().__init__(**least, batch_size=1, **sizes)
        check_even("pairs", pairs)
        self.pairs = pairs

    def describe(self) -> dict[str, Any]:
        return {"ways": None, "shots": None, "queries": None, "pairs": self.pairs, "partition": self.partition}

    def _pairs(self, split: Split) -> int:
        return self.pair_batch_size if split == "train" else self.pairs

    def _check(self, split: Split, images: Images) -> None:
        counts = images.counts.tolist()
        if len(counts) < 2 or min(counts) < 2:
            raise DataError(
                f"pairs take at least 2 classes and 2 images of each; part {split!r} (split {self.partition!r}) has "
                f"{len(counts)} classes of {min(counts)} to {max(counts)} images"
            )


class OmniglotPairs(Verification, Omniglot):
    """Pairs of Omniglot's drawings: the same character or not. In `train`, turned characters are other characters."""


class SyntheticPairs(Verification, Synthetic):
    """Pairs of synthetic glyphs: the offline stand-in."""


class ImageFolderPairs(Verification, ImageFolder):
    """Pairs of anybody's images, such as faces in a folder for each person."""
