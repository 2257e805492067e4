"""mini-ImageNet: 100 classes of ImageNet, 600 images each (Vinyals et al. 2016; Ravi and Larochelle 2017)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from metarun.data.image_tasks import ImageTasks
from metarun.images.files import open_files
from metarun.images.pickles import load_arrays
from metarun.images.store import CHUNK, Contents, Images, cached, data_roots, folder_contents, missing
from metarun.tasks import DataError, Split

RAVI = {"train": 64, "val": 16, "test": 20}  # classes
PER_CLASS = 600  # images
SIZE = 84  # pixels
PICKLE = {"train": "train", "val": "validation", "test": "test"}  # as learn2learn names the parts
COMMAND = "python -m metarun.data.download miniimagenet --root FOLDER"


class MiniImageNet(ImageTasks):
    """mini-ImageNet at 84x84, RGB, with the classes of Ravi and Larochelle 2017: 64 train, 16 val, 20 test.

    Only the part that is asked for is decoded.

    Arguments
        root: folder that holds the data (see `images.data_roots`), directly or in `mini_imagenet/` (also
            `mini-imagenet/`, `miniimagenet/`): learn2learn's mini-imagenet-cache-{train,validation,test}.pkl,
            or mini_imagenet_{train,val,test}.zip with SPLIT/CLASS/IMAGE, or folders SPLIT/CLASS/IMAGE.
        The others as in `ImageTasks`.
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
        raise missing(f"mini-ImageNet, part {split!r},", places, COMMAND)


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
    """Raises DataError unless a part has as many classes, and each as many images, as in split `ravi`."""
    if classes != RAVI[split] or counts != {PER_CLASS}:
        raise DataError(
            f"mini-ImageNet is not complete in {place}: wanted {RAVI[split]} classes of {PER_CLASS} images in "
            f"part {split!r}, got {classes} classes of {min(counts)} to {max(counts)}"
        )


def pickle_contents(path: Path) -> Contents:
    """The images of one of learn2learn's pickles: `image_data [n, 84, 84, 3]`, `class_dict` name -> indices.

    Raises
        DataError: the file is no such pickle.
    """
    data = load_arrays(path)
    try:
        pixels, members = np.asarray(data["image_data"]), data["class_dict"]
        classes = {str(name): np.asarray(members[name], dtype=np.int64) for name in sorted(members)}
        order = np.concatenate(list(classes.values()))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"{path}: wanted a dict of image_data and class_dict, got {type(data).__name__}") from error
    if pixels.shape[1:] != (SIZE, SIZE, 3) or pixels.dtype != np.uint8:
        raise DataError(
            f"{path}: wanted image_data [n, {SIZE}, {SIZE}, 3] of uint8, got {list(pixels.shape)} of {pixels.dtype}"
        )
    if order.size and (order.min() < 0 or order.max() >= len(pixels)):
        raise DataError(f"{path}: class_dict names image {order.max()}, and there are {len(pixels)}")

    def chunks() -> Iterator[np.ndarray]:
        for start in range(0, len(order), CHUNK):
            yield pixels[order[start : start + CHUNK]].transpose(0, 3, 1, 2)

    return Contents(list(classes), [len(indices) for indices in classes.values()], (3, SIZE, SIZE), chunks())
