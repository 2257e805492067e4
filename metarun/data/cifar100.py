"""CIFAR-100 as a source of few-shot data sets: its classes, and the files in which people have it.

60,000 images of 32x32, RGB: 100 classes of 600, in 20 superclasses of five (Krizhevsky 2009, "Learning Multiple Layers
of Features from Tiny Images"). Its page states no licence. `cifar_fs.py` and `fc100.py` divide the classes differently.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from metarun.data.image_tasks import ColourSquares
from metarun.data.roots import data_roots, missing
from metarun.images.cache import Contents, cached
from metarun.images.decoding import array_contents, by_class, class_contents
from metarun.images.files import Folder, disguise, open_files, open_regular
from metarun.images.pickles import load_arrays
from metarun.images.pixels import ImageDecoder
from metarun.images.store import Images
from metarun.tasks import DataError, Split

SIZE = 32  # pixels of the files
PER_CLASS = 600  # images: 500 of the file train, then 100 of the file test
PYTHON = "cifar-100-python"  # the folder that torchvision leaves
# The table of classes on CIFAR-100's page, spelled as the files spell it.
SUPERCLASSES = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
CLASSES = tuple(sorted(name for names in SUPERCLASSES.values() for name in names))  # in the order of the fine labels


class Cifar100Tasks(ColourSquares):
    """A few-shot data set made of CIFAR-100's classes; a subclass says which are in which split.

    Attributes:
        title: what errors call it.
        name: of the data set, for the command that downloads it and the names of cache entries.
        below: folders below a root in which its files are looked for.
        splits: the classes of each split, in sorted order.

    Args:
        root: folder that holds the data (see `data_roots`).
        size: height and width in pixels; another size than 32 stretches the images (Lanczos).
        sizes: the arguments of `ImageTasks`, without `channels`.

    Raises:
        ValueError: an argument is out of range.
    """

    title: ClassVar[str]
    name: ClassVar[str]
    below: ClassVar[tuple[str, ...]]
    splits: ClassVar[Mapping[Split, tuple[str, ...]]]

    def forms(self, split: Split) -> tuple[str, ...]:
        """Names of the files and folders that hold a split, below one of `below`, in the order they are looked for."""
        raise NotImplementedError

    def load(self, split: Split) -> Images:
        places = [
            root / base / form for root in data_roots(self.root) for base in self.below for form in self.forms(split)
        ]
        for place in places:
            if place.exists():
                images = self._read(place, split)
                self._check(place, split, images)
                return images
        command = f"metarun-download {self.name} --root FOLDER"
        raise missing(f"{self.title}, split {split!r},", places, command)

    def _read(self, place: Path, split: Split) -> Images:
        label, classes = f"{self.name}-{split}", self.splits[split]
        decoder = ImageDecoder(3, self.size, self.size)
        if place.suffix in (".pickle", ".npz") or place.name == PYTHON:
            files = ("train", "test") if place.name == PYTHON else (place.name,)
            folder = place if place.name == PYTHON else place.parent
            key = ["arrays", self.size, *Folder(folder).digests(files).values()]
            return cached(label, key, lambda: _array_contents(place, classes, decoder))
        files_of, below = open_files(place), "" if place.is_dir() else "cifar100/data"
        found = by_class(files_of, below)
        members = {name: found.get(name, []) for name in classes}
        if lacking := [name for name in classes if not members[name]]:
            raise DataError(f"{place} must hold the classes of CIFAR-100; got none of {lacking[0]!r}")
        names = [name for images in members.values() for name in images]
        key = [self.size, [*map(list, members.items())], files_of.fingerprint(names)]
        return cached(label, key, lambda: class_contents(files_of, members, decoder))

    def _check(self, place: Path, split: Split, images: Images) -> None:
        wanted, counts = len(self.splits[split]), images.counts
        if len(images.names) != wanted or set(counts.tolist()) != {PER_CLASS}:
            raise DataError(
                f"{place} must hold the {wanted} classes of {PER_CLASS} images of {self.title}'s split {split!r}; "
                f"got {len(images.names)} classes of {counts.min()} to {counts.max()}"
            )


def _array_contents(place: Path, classes: Sequence[str], decoder: ImageDecoder) -> Contents:
    """The images of some classes out of a file of arrays, or of CIFAR-100's folder.

    Raises:
        DataError: it holds something else, or other classes.
    """
    if place.name == PYTHON:
        pixels, labels = python_arrays(place)
    elif place.suffix == ".npz":
        pixels, labels = checked_arrays(place, npz_arrays(place), "features", "targets")
    else:
        pixels, labels = checked_arrays(place, load_arrays(place), "data", "labels")
    wanted = {CLASSES.index(name): name for name in classes}
    if place.name != PYTHON and set(labels.tolist()) != set(wanted):
        # MetaOptNet's pickles number the classes in their own way: which one a number stands for, no file says.
        if place.suffix == ".npz":
            raise DataError(f"{place} must hold the fine labels {sorted(wanted)}; got {sorted(set(labels.tolist()))}")
        wanted = {label: f"class_{label:03d}" for label in sorted(set(labels.tolist()))}
    indices = {name: np.flatnonzero(labels == label) for label, name in wanted.items()}
    return array_contents(pixels, indices, decoder)


def python_arrays(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """All images `[60000, 32, 32, 3]` and fine labels `[60000]` of `cifar-100-python/`: train, then test.

    Raises:
        DataError: the folder holds something else.
    """
    parts = []
    for name in ("train", "test"):
        data = _text_keys(load_arrays(folder / name))
        flat = data.get("data") if isinstance(data, dict) else None
        if not isinstance(flat, np.ndarray) or flat.ndim != 2 or flat.shape[1] != 3 * SIZE * SIZE:
            raise DataError(f"{folder / name} must be a dict of data [n, {3 * SIZE * SIZE}] and fine_labels")
        rows = {"data": flat.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1), "fine_labels": data.get("fine_labels")}
        parts.append(checked_arrays(folder / name, rows, "data", "fine_labels"))
    if (meta := folder / "meta").exists():
        names = _text_keys(load_arrays(meta)).get("fine_label_names", [])
        if [name.decode() if isinstance(name, bytes) else name for name in names] != list(CLASSES):
            raise DataError(f"{meta} must name CIFAR-100's {len(CLASSES)} classes in alphabetical order")
    return np.concatenate([pixels for pixels, _ in parts]), np.concatenate([labels for _, labels in parts])


def npz_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file.

    Raises:
        DataError: it is none, or holds objects, which only a pickle can make.
    """
    with open_regular(path) as file:
        what = disguise(file)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} must be an npz file of arrays; it is {what or f'unusable ({error})'}") from error


def checked_arrays(path: Path, data: Any, images: str, labels: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels `[n, 32, 32, 3]` (uint8) and labels `[n]` (int64) out of a dict.

    Args:
        path: of the file, for errors.
        data: what it holds.
        images, labels: their names in it.

    Raises:
        DataError: it is not such a dict.
    """
    try:
        data = _text_keys(data)
        pixels, numbers = np.asarray(data[images]), np.asarray(data[labels])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{path} must be a dict of {images} and {labels}; got {type(data).__name__}") from error
    right = pixels.dtype == np.uint8 and pixels.shape[1:] == (SIZE, SIZE, 3)
    if not right or numbers.shape != pixels.shape[:1] or numbers.dtype.kind not in "iu":
        raise DataError(
            f"{path}: {images} must be [n, {SIZE}, {SIZE}, 3] of uint8 and {labels} n integers; got "
            f"{list(pixels.shape)} of {pixels.dtype} and {list(numbers.shape)} of {numbers.dtype}"
        )
    return pixels, numbers.astype(np.int64)


def _text_keys(data: Any) -> Any:
    """A dict whose keys may be bytes, as Python 2 pickled them, with keys of text."""
    if not isinstance(data, dict):
        return data
    return {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in data.items()}
