"""tiered-ImageNet: 608 classes of ImageNet, divided by category (Ren et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from metarun.data.image_tasks import ColourSquares
from metarun.data.roots import data_roots, missing
from metarun.data.tiered_imagenet_classes import SPLITS
from metarun.images.cache import Contents, cached
from metarun.images.decoding import by_class, class_contents
from metarun.images.files import Folder
from metarun.images.pickles import load_arrays
from metarun.images.pixels import ImageDecoder
from metarun.images.store import Images
from metarun.tasks import DataError, Split

IMAGES = {"train": 448_695, "val": 124_261, "test": 206_209}  # of all classes of a split
COMMAND = "metarun-download tiered_imagenet --root FOLDER"


class TieredImageNet(ColourSquares):
    """tiered-ImageNet, RGB, 84x84: 351 train, 97 val and 160 test classes, no category of which is in two splits.

    Source: the GitHub repository renmengye/few-shot-ssl-public, whose README links to the archive (12.9 GB). Licence:
    ImageNet's terms, for non-commercial research. Layout: folder `root` holds one of these, directly or in
    `tiered_imagenet/` (also `tiered-imagenet/`):
        {train,val,test}_images_png.pkl and {train,val,test}_labels.pkl, as Ren et al. leave them: PNG files as arrays
            of bytes, and a dict of `label_specific` (a class for each image) and `label_specific_str` (their names);
        {train,val,test}/CLASS/IMAGE, classes by WordNet numbers (n01530575);
        CLASS/IMAGE, of all splits or of all of ImageNet: `data.root=.../ILSVRC2012/train`.

    Only the split that is asked for is decoded: 9.5 GB for train at 84x84. The pickle of train takes about twice its
    size (7 GB) of memory while it is read.

    Args:
        root: folder that holds the data (see `data_roots`).
        size: height and width in pixels; images of another size are stretched to it (Lanczos). Ren et al. stretched
            ImageNet's files to 84x84 with a bicubic filter.
        sizes: the arguments of `ImageTasks`, without `channels`.

    Raises:
        ValueError: an argument is out of range.
    """

    partitions: ClassVar[tuple[str, ...]] = ("ren",)

    def load(self, split: Split) -> Images:
        first, below = SPLITS[split][0], ("", "tiered_imagenet", "tiered-imagenet", "tiered-imagenet/tiered-imagenet")
        folders = [root / base for root in data_roots(self.root) for base in below]
        names = (f"{split}_images_png.pkl", f"{split}/{first}", first)  # a class stands for the folder that holds it
        for place in (folder / name for folder in folders for name in names):
            if place.exists():
                source = place if place.suffix == ".pkl" else place.parent
                images = _load(source, split, self.size)
                _check(source, split, images)
                return images
        forms = (f"{split}_images_png.pkl", f"{split}/CLASS/IMAGE", "CLASS/IMAGE")
        raise missing(
            f"tiered-ImageNet, split {split!r},", [folder / form for folder in folders for form in forms], COMMAND
        )


def _load(place: Path, split: Split, size: int) -> Images:
    label, decoder = f"tiered_imagenet-{split}", ImageDecoder(3, size, size)
    if place.suffix == ".pkl":
        labels = f"{split}_labels.pkl"
        key: list[object] = ["pickle", size, *Folder(place.parent).digests([place.name, labels]).values()]
        return cached(label, key, lambda: pickle_contents(place, place.parent / labels, decoder))
    files = Folder(place)
    found = by_class(files, "")
    if lacking := [name for name in SPLITS[split] if name not in found]:
        raise DataError(
            f"{place} must hold the {len(SPLITS[split])} classes of tiered-ImageNet's split {split!r}; "
            f"{len(lacking)} are missing, such as {lacking[0]}"
        )
    members = {name: found[name] for name in SPLITS[split]}
    names = [name for images in members.values() for name in images]
    return cached(label, [size, files.fingerprint(names)], lambda: class_contents(files, members, decoder))


def _check(place: Path, split: Split, images: Images) -> None:
    classes, total = len(SPLITS[split]), IMAGES[split]
    if len(images.names) != classes or len(images.pixels) != total:
        raise DataError(
            f"{place} must hold the {classes} classes and {total:,} images of tiered-ImageNet's split {split!r}; "
            f"got {len(images.names)} classes and {len(images.pixels):,} images"
        )


class _Encoded:
    """PNG files that lie in a pickle, as `decoded` reads files: named by their numbers."""

    def __init__(self, path: Path, images: Sequence[Any]):
        self.path, self.images = path, images

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        return [str(number) for number in range(len(self.images))]

    def read(self, name: str) -> bytes:
        image = self.images[int(name)]
        return image.tobytes() if isinstance(image, np.ndarray) else bytes(image)

    def fingerprint(self, names: Sequence[str]) -> list[Any]:
        return list(names)


def pickle_contents(path: Path, labels_path: Path, decoder: ImageDecoder) -> Contents:
    """The images of a split out of Ren et al.'s pickles.

    Raises:
        DataError: they hold something else.
    """
    labels, names = _labels(labels_path)
    images = load_arrays(path)
    if not isinstance(images, list) or not all(_is_bytes(image) for image in images) or len(images) != len(labels):
        got = f"{len(images)} items" if isinstance(images, list) else type(images).__name__
        raise DataError(f"{path} must be a list of {len(labels)} PNG files as arrays of uint8; got {got}")
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(len(names) + 1))
    members = {name: [str(i) for i in order[starts[k] : starts[k + 1]]] for k, name in enumerate(names)}
    return class_contents(_Encoded(path, images), members, decoder)


def _is_bytes(image: Any) -> bool:
    return isinstance(image, bytes) or (isinstance(image, np.ndarray) and image.dtype == np.uint8)


def _labels(path: Path) -> tuple[np.ndarray, list[str]]:
    """A class for each image, and a name for each class; classes of the same name (`crane`) are told by a number."""
    data = load_arrays(path)
    try:
        data = {key.decode() if isinstance(key, bytes) else key: value for key, value in data.items()}
        labels = np.asarray(data["label_specific"]).astype(np.int64, casting="same_kind")
        plain = [name.decode() if isinstance(name, bytes) else str(name) for name in data["label_specific_str"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} must be a dict of label_specific and label_specific_str") from error
    if labels.ndim != 1 or set(labels.tolist()) != set(range(len(plain))):
        raise DataError(f"{path}: label_specific must hold the numbers 0 to {len(plain) - 1}, of the names beside it")
    return labels, [name if plain.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(plain)]
