"""mini-ImageNet: 100 classes of ImageNet, 600 images each (Vinyals et al. 2016; Ravi and Larochelle 2017)."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from metarun.data.image_tasks import ImageTasks
from metarun.data.roots import data_roots, missing
from metarun.images.cache import Contents, cached
from metarun.images.decoding import CHUNK, by_class, class_contents
from metarun.images.files import Files, Folder, open_files, read_text
from metarun.images.pickles import load_arrays
from metarun.images.pixels import ImageDecoder
from metarun.images.store import Images
from metarun.tasks import DataError, Split

RAVI = {"train": 64, "val": 16, "test": 20}  # classes
PER_CLASS = 600  # images
SIZE = 84  # pixels
PICKLE = {"train": "train", "val": "validation", "test": "test"}  # as learn2learn names the splits; others say val
COMMAND = "metarun-download miniimagenet --root FOLDER"


class MiniImageNet(ImageTasks):
    """mini-ImageNet at 84x84, RGB, with the classes of Ravi and Larochelle 2017: 64 train, 16 val, 20 test.

    Only the split that is asked for is decoded.

    Args:
        root: folder that holds the data (see `data_roots`), directly or in `mini_imagenet/` (also `mini-imagenet/`,
            `miniimagenet/`), in one of these forms: mini-imagenet-cache-{train,val,test}.pkl (learn2learn's has
            `validation` for `val`), mini_imagenet_{train,val,test}.zip with SPLIT/CLASS/IMAGE, folders
            SPLIT/CLASS/IMAGE, or images/ with Ravi's lists {train,val,test}.csv of filename,label beside it.
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
        pickles = dict.fromkeys(f"mini-imagenet-cache-{name}.pkl" for name in (PICKLE[split], split))
        names = (*pickles, f"mini_imagenet_{split}.zip", split)
        below = ("", "mini_imagenet", "mini-imagenet", "miniimagenet")
        folders = [root / base for root in data_roots(self.root) for base in below]
        places = [folder / name for folder in folders for name in (*names, f"{split}.csv")]
        for place in places:
            if place.exists() and (place.suffix != ".csv" or (place.parent / "images").is_dir()):
                return _load(place, split)
        raise missing(f"mini-ImageNet, split {split!r},", places, COMMAND)


def _load(place: Path, split: Split) -> Images:
    label, decoder = f"miniimagenet-{split}", ImageDecoder(3, SIZE, SIZE)
    if place.suffix == ".pkl":
        key: list[object] = ["pickle", *Folder(place.parent).digests([place.name]).values()]
        images = cached(label, key, lambda: pickle_contents(place))
    else:
        if place.suffix == ".csv":
            files: Files = Folder(place.parent / "images")
            classes = ravis_list(place)
        else:
            files = open_files(place)
            classes = by_class(files, "" if place.is_dir() else split)
        members = [name for names in classes.values() for name in names]
        check(place, split, len(classes), {len(names) for names in classes.values()})
        key = [SIZE, [*map(list, classes.items())], files.fingerprint(members)]
        images = cached(label, key, lambda: class_contents(files, classes, decoder))
    check(place, split, len(images.names), set(images.counts.tolist()))
    return images


def ravis_list(path: Path) -> dict[str, list[str]]:
    """Files by class, both in sorted order, from one of Ravi and Larochelle's lists: columns filename, label.

    Raises:
        DataError: the file is not such a list.
    """
    rows = csv.DictReader(read_text(path).splitlines())
    if not {"filename", "label"} <= set(rows.fieldnames or ()):
        raise DataError(f"{path} must have the columns filename,label; got {','.join(rows.fieldnames or ()) or 'none'}")
    classes: dict[str, list[str]] = {}
    for row in rows:
        name, label = row["filename"], row["label"]
        if not name or not label or Path(name).name != name:
            raise DataError(f"{path}, line {rows.line_num}, must be the name of a file and a label; got {name},{label}")
        classes.setdefault(label, []).append(name)
    return {label: sorted(classes[label]) for label in sorted(classes)}


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
