"""Images of two bytes that say which image they are, and a data set of them."""

import numpy as np
import torch

from metarun.data.image_tasks import ImageTasks
from metarun.images.store import Images, ImageStore

# Tests of uniformity use fixed seeds, so they never flicker; with another seed a right sampler would fail
# each of them one time in a million.
ODDS = 1e-6


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(counts):
    total = sum(counts)
    number = np.arange(total)
    pixels = np.stack([number // 256, number % 256], 1).astype(np.uint8).reshape(total, 1, 1, 2)
    names = tuple(f"class{i}" for i in range(len(counts)))
    return Images(torch.from_numpy(pixels), names, torch.tensor(counts))


def stored(counts):
    return ImageStore(numbered(counts), torch.device("cpu"))


def numbers(x):
    """Which images these are."""
    high, low = (x * 255).round().long().flatten(-3).unbind(-1)
    return high * 256 + low


def class_of(number, counts):
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))[number]


class Toy(ImageTasks):
    partitions = ("toy",)

    def __init__(self, counts, **arguments):
        super().__init__(partition="toy", channels=1, mean=None, std=None, **arguments)
        self.counts = counts

    def in_shape(self, stream="episodes"):
        return (1, 1, 2)

    def load(self, split):
        return numbered(self.counts)
