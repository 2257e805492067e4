"""Several data sets as one: a task is drawn from one of them (Meta-Dataset: Triantafillou et al., ICLR 2020)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from importlib import import_module
from inspect import signature
from typing import Any, ClassVar, cast

import numpy as np
import torch

from metarun.checks import require, require_int
from metarun.data.image_tasks import ImageTasks
from metarun.images.cache import Contents, cached
from metarun.images.decoding import CHUNK, prepared
from metarun.images.pixels import ImageDecoder
from metarun.images.sampler import GroupSampler, Sampler
from metarun.images.store import Images
from metarun.tasks import BLOCK, Batch, DataError, Split

# Data sets that can be members, each in its first partition: their classes.
MEMBERS = {
    "cifar_fs": "CifarFS",
    "cub": "Cub",
    "fc100": "FC100",
    "miniimagenet": "MiniImageNet",
    "omniglot": "Omniglot",
    "tiered_imagenet": "TieredImageNet",
}
# Members of a set are made of the same classes, but divide them differently: a class that is in train of one is in test
# of another.
RELATED = ({"cifar_fs", "fc100"}, {"miniimagenet", "tiered_imagenet"})
OWN = {"omniglot": {"split_seed": 0}}  # further arguments of a member


class Union(ImageTasks):
    """Tasks out of several data sets, each task out of one: first a member is drawn, all equally likely, then classes.

    The splits are those of the members. Held-out tasks take turns: task t is of member t modulo their number, so that
    each has the same share, and the result holds the headline of each, `accuracy/MEMBER`, beside that of all. In the
    stream `batches` the classes of all members stand side by side, and all images are equally likely.

    Args:
        root: folder that holds all members, as each of them looks for its files (see `data_roots`).
        members: at least two names out of `MEMBERS`.
        size: height and width in pixels, of all members; other images are stretched to it (Lanczos).
        channels: 3 for RGB, 1 for grey, of all members.
        sizes: the other arguments of `ImageTasks`. `mean` and `std` are the same for all members.

    Raises:
        ValueError: an argument is out of range.
    """

    partitions: ClassVar[tuple[str, ...]] = ("members",)

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        members: Sequence[str],
        size: int,
        channels: int,
        **sizes: Any,
    ):
        super().__init__(channels=channels, **sizes)
        require_int("data", minimum=1, size=size)
        _check_members(members)
        self.root, self.members, self.size, self.channels = root, tuple(members), size, channels
        self._classes: dict[Split, list[int]] = {}

    def in_shape(self, stream: str = "episodes") -> tuple[int, ...]:  # noqa: ARG002  (all streams are of images)
        return (self.channels, self.size, self.size)

    def load(self, split: Split) -> Images:
        decoder = ImageDecoder(self.channels, self.size, self.size)
        parts = {name: fitted(self._member(name).load(split), name, split, decoder) for name in self.members}
        self._classes[split] = [len(images.names) for images in parts.values()]
        return Images(
            torch.cat([images.pixels for images in parts.values()]),
            tuple(f"{member}/{name}" for member, images in parts.items() for name in images.names),
            torch.cat([images.counts for images in parts.values()]),
        )

    def sampler_of(self, split: Split) -> GroupSampler:
        store = self.store(split)  # which loads the split
        return GroupSampler(store, self._classes[split])

    def groups(self, tasks: int) -> tuple[str, ...]:
        return tuple(self.members[task % len(self.members)] for task in range(tasks))

    def eval_block(self, split: Split, stream: str, block: int) -> Batch:
        sampler = cast(GroupSampler, self._sampler(split, stream))
        sampler.turn = block * BLOCK
        try:
            return super().eval_block(split, stream, block)
        finally:
            sampler.turn = None

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"members": list(self.members)}

    def _member(self, name: str) -> ImageTasks:
        kind = getattr(import_module(f"metarun.data.{name}"), MEMBERS[name])
        arguments = {"root": self.root, "partition": kind.partitions[0], "device": "cpu", **OWN.get(name, {})}
        if "size" in signature(kind).parameters:
            arguments["size"] = self.size  # so that its files are stretched once
        few = {"ways": 2, "shots": 1, "queries": 1, "train_ways": 2, "train_queries": 1, "batch_size": 1}
        return cast(ImageTasks, kind(**arguments, **few))  # of which no task is drawn

    def _check_ways(self, split: Split, sampler: Sampler) -> None:
        del sampler  # of all members
        ways, prefix = self._sizes(split)[0], "data.train_" if split == "train" else "data."
        most, smallest = min(zip(self._classes[split], self.members, strict=True))
        if ways * self.classes_per_way > most:
            raise DataError(
                f"{prefix}ways must be at most {most // self.classes_per_way}, as split {split!r} of {smallest} has "
                f"{most} classes, and a task is of one member; got {ways}"
            )


def _check_members(members: Sequence[str]) -> None:
    known = all(name in MEMBERS for name in members)
    several = known and 1 < len(members) == len(set(members))
    require("data.members", list(members), several, f"at least two of {', '.join(MEMBERS)}, each once")
    for related in RELATED:
        both = " and ".join(sorted(related))
        what = f"without both {both}: test classes of one are training classes of the other"
        require("data.members", list(members), not related <= set(members), what)


def fitted(images: Images, member: str, split: Split, decoder: ImageDecoder) -> Images:
    """A member's images in the size and the channels of all; from the cache, where they had others."""
    shape = (decoder.channels, decoder.height, decoder.width)
    if tuple(images.pixels.shape[1:]) == shape:
        return images
    pixels = images.pixels.numpy()

    def chunks() -> Iterator[np.ndarray]:
        for start in range(0, len(pixels), CHUNK):
            yield prepared(pixels[start : start + CHUNK].transpose(0, 2, 3, 1), decoder)

    digest = hashlib.blake2b(repr((images.names, images.counts.tolist(), pixels.shape)).encode())
    for start in range(0, len(pixels), CHUNK):
        digest.update(np.ascontiguousarray(pixels[start : start + CHUNK]).data)
    contents = Contents(images.names, images.counts.tolist(), shape, chunks())
    return cached(f"union-{member}-{split}", [shape, digest.hexdigest()], lambda: contents)
