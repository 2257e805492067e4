"""Handwritten digits, 8x8 pixels: the 1,797 that scikit-learn ships with, so there is nothing to download.

From the UCI repository's "Optical Recognition of Handwritten Digits" (Alpaydin, Kaynak 1998; its test set, grey values
0 to 16). All splits have the ten digits, and share no image. With all ten ways, a task is to train a network on a few
images of a split and to test it on others, as when optimizers are compared.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from metarun.checks import require_int
from metarun.data.image_tasks import ImageTasks
from metarun.images.store import Images
from metarun.sampling import stream_generator
from metarun.tasks import Split

SIZE = 8  # pixels
INK = 16  # the darkest grey value
SHARES: dict[Split, tuple[float, float]] = {"train": (0.0, 0.5), "val": (0.5, 0.75), "test": (0.75, 1.0)}


class Digits(ImageTasks):
    """Digits, 8x8, grey, ink (1) on empty (0): half of each class for training, a quarter each for val and test.

    Args:
        split_seed: decides which images are in which split; at least 0.
        sizes: the arguments of `ImageTasks`, without `channels`.
    """

    partitions: ClassVar[tuple[str, ...]] = ("images",)
    inverted: ClassVar[bool] = True  # of a picture of dark ink

    def __init__(self, *, split_seed: int, **sizes: Any):
        super().__init__(channels=1, **sizes)
        require_int("data", split_seed=split_seed)
        self.split_seed = split_seed

    def in_shape(self, stream: str = "episodes") -> tuple[int, ...]:  # noqa: ARG002  (all streams are of images)
        return (1, SIZE, SIZE)

    def load(self, split: Split) -> Images:
        from sklearn.datasets import load_digits  # a second to import

        loaded = load_digits()
        grey, digit = torch.from_numpy(loaded.images), torch.from_numpy(loaded.target)
        low, high = SHARES[split]
        chosen = []
        for label in range(10):
            (members,) = (digit == label).nonzero(as_tuple=True)
            n = len(members)
            order = torch.randperm(n, generator=stream_generator("cpu", "digits", self.split_seed, label))
            chosen.append(members[order[round(low * n) : round(high * n)]])
        pixels = (grey[torch.cat(chosen)] * (255 / INK)).round().to(torch.uint8).unsqueeze(1)
        return Images(pixels, tuple(map(str, range(10))), torch.tensor([len(members) for members in chosen]))
