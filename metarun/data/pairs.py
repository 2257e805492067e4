"""Verification: are two examples of one class? Learned from pairs of some classes, tested on pairs of others."""

from __future__ import annotations

from typing import Any, ClassVar

from metarun.data.class_tasks import ClassTasks, require_even
from metarun.data.imagefolder import ImageFolder
from metarun.data.omniglot import Omniglot
from metarun.data.synthetic import Synthetic
from metarun.tasks import Kind, Split


class Verification(ClassTasks):
    """Verification on the classes of a data set: `class X(Verification, DataSet)`, in this order.

    A held-out task is a set of pairs of the split's classes, half of them of one class; the mean over tasks of the area
    under the ROC curve is an unbiased estimate of the area for all pairs.

    Args:
        pairs: pairs of a held-out task, even.
        pair_batch_size: pairs of a training mini-batch, even.
        sizes: the arguments of the data set, without those of episodes, which it does not offer.
    """

    kind: ClassVar[Kind] = "verification"
    streams: ClassVar[tuple[str, ...]] = ("pairs",)
    evaluation_stream: ClassVar[str] = "pairs"

    def __init__(self, *, pairs: int, **sizes: Any):
        # No episode is drawn, so these are the smallest sizes allowed.
        smallest: dict[str, Any] = {"ways": 2, "shots": 1, "queries": 1, "train_ways": 2, "train_queries": 1}
        super().__init__(**smallest, batch_size=1, **sizes)
        require_even("data.pairs", pairs)
        self.pairs = pairs

    def describe(self) -> dict[str, Any]:
        return {"ways": None, "shots": None, "queries": None, "pairs": self.pairs, "partition": self.partition}

    def _pairs(self, split: Split) -> int:
        return self.pair_batch_size if split == "train" else self.pairs


class OmniglotPairs(Verification, Omniglot):
    """Pairs of Omniglot's drawings: the same character or not. In `train`, a turned character is another character."""


class SyntheticPairs(Verification, Synthetic):
    """Pairs of synthetic glyphs: the offline stand-in."""


class ImageFolderPairs(Verification, ImageFolder):
    """Pairs of your own images, such as faces, a folder for each person."""

    def describe(self) -> dict[str, Any]:
        return super().describe() | self.division()
