"""mini-ImageNet: 100 classes of ImageNet, 600 images each (Vinyals et al. 2016; Ravi and Larochelle 2017)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from metarun.data.image_tasks import ImageTasks
from metarun.data.roots import data_roots, missing
from metarun.images.cache import Contents, cached
from metarun.images.decoding import CHUNK, folder_contents
from metarun.images.files import open_files
from metarun.images.pickles import load_arrays
from metarun.images.store import Images
from metarun.tasks import DataError, Split

RAVI = {"train": 64, "val": 16, "test": 20}  # classes
PER_CLASS = 600  # images
SIZE = 84  # pixels
PICKLE = {"train": "train", "val": "validation", "test": "test"}  # as learn2learn names the splits
COMMAND = "metarun-download miniimagenet --root FOLDER"


class MiniImageNet(ImageTasks):
    """mini-ImageNet at 84x84, RGB, with the classes of Ravi and Larochelle 2017: 64 train, 16 val, 20 test.

    Only the split that is asked for is decoded.

    Args:
        root: folder that holds the data (see `data_roots`), directly or in `mini_imagenet/` (also `mini-imagenet/`,
            `miniimagenet/`): learn2learn's mini-imagenet-cache-{train,validation,test}.pkl, or
            mini_imagenet_{train,val,test}.zip with SPLIT/CLASS/IMAGE, or folders SPLIT/CLASS/IMAGE.
        sizes: the arguments of `ImageTasks`, without `channels`.
    """

    partitions: ClassVar[tuple[str, ...]] = ("ravi",)

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        **sizes: Any,
    ):
        super().__init__(channels=3, **sizes)
        self.root = root

    def in_shape(self, stream: str = "episodes") -> tuple[int, ...]:  # noqa: ARG002  (all streams are of images)
        return (3, SIZE, SIZE)

    def load(self, split: Split) -> Images:
        names = (f"mini-imagenet-cache-{PICKLE[split]}.pkl", f"mini_imagenet_{split}.zip", split)
        below = ("", "mini_imagenet", "mini-imagenet", "miniimagenet")
        places = [root / base / name for root in data_roots(self.root) for base in below for name in names]
        for place in places:
            if place.exists():
                return _load(place, split)
        raise missing(f"mini-ImageNet, split {split!r},", places, COMMAND)


def _load(place: Path, split: Split) -> Images:
    if place.suffix == ".pkl":
        stat = place.stat()
        key = ["pickle", str(place.resolve()), stat.st_size, stat.st_mtime_ns]
        images = cached(f"miniimagenet-{split}", key, lambda: pickle_contents(place))
    else:
        files = open_files(place)
        below = "" if place.is_dir() else split
        key = [SIZE, files.fingerprint()]
        images = cached(f"miniimagenet-{split}", key, lambda: folder_contents(files, below, 3, SIZE))
    check(place, split, len(images.names), set(images.counts.tolist()))
    return images


def check(place: Path, split: Split, classes: int, counts: set[int]) -> None:
    """Raise unless a split has as many classes, and each as many images, as in partition `ravi`.

    Raises:
        DataError: it has not.
    """
    if classes != RAVI[split] or counts != {PER_CLASS}:
        raise DataError(
            f"{place} must hold the {RAVI[split]} classes of {PER_CLASS} images of mini-ImageNet's split {split!r}; "
            f"got {classes} classes of {min(counts, default=0)} to {max(counts, default=0)}"
        )


def pickle_contents(path: Path) -> Contents:
    """The images of one of learn2learn's pickles: `image_data [n, 84, 84, 3]`, `class_dict` name -> indices.

    Raises:
        DataError: the file is not such a pickle.
    """
    data = load_arrays(path)
    try:
        pixels, members = np.asarray(data["image_data"]), data["class_dict"]
        classes = {str(name): np.asarray(members[name], dtype=np.int64) for name in sorted(members)}
        order = np.concatenate(list(classes.values()))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"{path} must be a dict of image_data and class_dict; got {type(data).__name__}") from error
    if pixels.shape[1:] != (SIZE, SIZE, 3) or pixels.dtype != np.uint8:
        raise DataError(
            f"{path}: image_data must be [n, {SIZE}, {SIZE}, 3] of uint8; got {list(pixels.shape)} of {pixels.dtype}"
        )
    if order.size and (order.min() < 0 or order.max() >= len(pixels)):
        raise DataError(
            f"{path}: class_dict must name images from 0 to {len(pixels) - 1}; got {order.min()} to {order.max()}"
        )

    def chunks() -> Iterator[np.ndarray]:
        for start in range(0, len(order), CHUNK):
            yield pixels[order[start : start + CHUNK]].transpose(0, 3, 1, 2)

    return Contents(list(classes), [len(indices) for indices in classes.values()], (3, SIZE, SIZE), chunks())
