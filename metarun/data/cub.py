"""CUB-200-2011: 200 species of birds, 11,788 photographs (Wah et al. 2011), divided as by Chen et al. (ICLR 2019)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from metarun.data.image_tasks import ColourSquares
from metarun.data.roots import data_roots, missing
from metarun.images.cache import cached
from metarun.images.decoding import class_contents
from metarun.images.files import Folder, is_image, read_text
from metarun.images.pixels import ImageDecoder
from metarun.images.store import Images
from metarun.tasks import DataError, Split

CLASSES = 200
IMAGES = 11_788
COMMAND = "metarun-download cub --root FOLDER"
# `chen`: of the classes in order, numbered from 0, every second is train, of the others every second val: 100, 50, 50
# classes (filelists/CUB/write_CUB_filelist.py of the GitHub repository wyharveychen/CloserLookFewShot, where they are
# called base, val and novel; torchmeta/datasets/assets/cub of tristandeleu/pytorch-meta lists the same).
CHEN: dict[Split, tuple[int, int]] = {"train": (2, 0), "val": (4, 1), "test": (4, 3)}  # divisor, remainder


class Cub(ColourSquares):
    """CUB-200-2011, RGB, whole photographs stretched to a square: 100 train, 50 val and 50 test species.

    Source: record 65de6-vp158 of CaltechDATA. Licence: the pictures are from Flickr, their rights lie with their
    photographers; for non-commercial research and education. Layout: folder `root` holds `images.txt` (lines
    NUMBER CLASS/IMAGE) and `images/CLASS/IMAGE`, as the archive has them, directly or in `CUB_200_2011/`,
    `cub/CUB_200_2011/` or `cubirds200/CUB_200_2011/` (learn2learn's). Classes have 41 to 60 images. The paper's code
    crops the centre of each photograph at test, and a random part of it in training.

    Args:
        root: folder that holds the data (see `data_roots`).
        size: height and width in pixels; images are stretched to it (Lanczos).
        sizes: the arguments of `ImageTasks`, without `channels`.

    Raises:
        ValueError: an argument is out of range.
    """

    partitions: ClassVar[tuple[str, ...]] = ("chen",)

    def load(self, split: Split) -> Images:
        below = ("", "CUB_200_2011", "cub", "cub/CUB_200_2011", "cubirds200/CUB_200_2011")
        places = [root / base / "images.txt" for root in data_roots(self.root) for base in below]
        for place in places:
            if place.exists() and (place.parent / "images").is_dir():
                return self._read(Folder(place.parent / "images"), chen(listed_images(place), split), split)
        raise missing("CUB-200-2011, images.txt and the folder images beside it,", places, COMMAND)

    def _read(self, files: Folder, classes: dict[str, list[str]], split: Split) -> Images:
        decoder = ImageDecoder(3, self.size, self.size)
        key = [self.size, files.fingerprint([name for names in classes.values() for name in names])]
        return cached(f"cub-{split}", key, lambda: class_contents(files, classes, decoder))


def chen(classes: dict[str, list[str]], split: Split) -> dict[str, list[str]]:
    """The classes of a split, of all in order."""
    divisor, remainder = CHEN[split]
    return {name: images for i, (name, images) in enumerate(classes.items()) if i % divisor == remainder}


def listed_images(path: Path) -> dict[str, list[str]]:
    """Images by class, both in sorted order, from `images.txt`.

    Raises:
        DataError: the file is something else, or does not list all images.
    """
    classes: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        _, _, name = line.strip().partition(" ")
        parts = name.split("/")
        if len(parts) != 2 or any(part in ("", ".", "..") for part in parts) or not is_image(name):
            raise DataError(f"{path}, line {number}, must be a number and CLASS/IMAGE; got {line!r}")
        classes.setdefault(parts[0], []).append(name)
    total = sum(map(len, classes.values()))
    if len(classes) != CLASSES or total != IMAGES:
        raise DataError(
            f"{path} must list the {CLASSES} classes and {IMAGES:,} images of CUB-200-2011; got {len(classes)} "
            f"classes and {total:,} images"
        )
    return {name: sorted(classes[name]) for name in sorted(classes)}
