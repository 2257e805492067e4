"""Omniglot: 1623 handwritten characters, 20 drawings each (Lake, Salakhutdinov, Tenenbaum, Science 2015)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import torch

from metarun.data.image_tasks import ImageTasks
from metarun.data.roots import data_roots, missing
from metarun.images.cache import Contents, cached
from metarun.images.decoding import decoded
from metarun.images.files import Files, is_image, open_files, read_text
from metarun.images.pixels import ImageDecoder
from metarun.images.store import Images
from metarun.tasks import DataError, Split

HALVES = {"images_background": 964, "images_evaluation": 659}  # characters
DRAWINGS = 20  # of each character
SIZE = 28  # pixels
ROTATIONS = (0, 90, 180, 270)  # degrees, counter-clockwise
COMMAND = "metarun-download omniglot --root FOLDER"

# `maml`: sizes of the splits, cbfinn/maml data_generator.py.
MAML = {"train": 1100, "val": 100, "test": 423}
# `lake`: the alphabets of images_background that are for validation.
LAKE_VAL = ("Braille", "Burmese_(Myanmar)", "Gujarati", "Inuktitut_(Canadian_Aboriginal_Syllabics)", "N_Ko")
# `small`: train is images_background_small1 of the Omniglot repository; test is images_background_small2 without Greek
# and Latin, which both have.
SMALL = {
    "train": ("Balinese", "Early_Aramaic", "Greek", "Korean", "Latin"),
    "val": ("Bengali", "Futurama", "Hebrew"),
    "test": ("Japanese_(katakana)", "Sanskrit", "Tagalog"),
}

Class = tuple[str, int]  # Alphabet/characterNN, rotation in degrees


class Omniglot(ImageTasks):
    """Omniglot at 28x28, grey, white ink (1) on black (0).

    Its partitions are these:
        maml: the 1623 characters in an order that `split_seed` decides: 1100 train, 100 val, 423 test;
            rotations by 90, 180 and 270 degrees are new classes in train only (Finn et al. 2017).
        vinyals: class lists of Vinyals et al. 2016 as published with Snell et al. 2017: 1028, 172 and 423
            characters; rotations are new classes in every split.
        lake: images_evaluation is test; five alphabets of images_background are val, the others train;
            rotations in train only (Lake et al. 2015 have neither rotations nor val).
        small: train Balinese, Early_Aramaic, Greek, Korean, Latin with rotations (136 characters);
            val Bengali, Futurama, Hebrew (94), test Japanese_(katakana), Sanskrit, Tagalog (106) without.

    Differences from MAML's code: drawings are made grey and then resized with an antialiased Lanczos filter, as in
    learn2learn's examples (MAML's code asks Pillow for Lanczos too, but on one-bit images, for which Pillow uses the
    nearest pixel); and a character and its own rotation, being two classes, may meet in one task.

    Args:
        root: folder that holds the data (see `data_roots`), directly or in `omniglot/`: images_background and
            images_evaluation as folders or zips, also within `omniglot-py/` as torchvision and learn2learn leave them,
            or omniglot_png.zip.
        split_seed: decides the order of the characters in partition `maml`; the others need none.
        sizes: the arguments of `ImageTasks`, without `channels`.
    """

    partitions: ClassVar[tuple[str, ...]] = ("maml", "vinyals", "lake", "small")
    inverted: ClassVar[bool] = True  # ink is black in the files

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        split_seed: int,
        **sizes: Any,
    ):
        super().__init__(channels=1, **sizes)
        self.root = root
        self.split_seed = split_seed
        self._all: Images | None = None

    def in_shape(self, stream: str = "episodes") -> tuple[int, ...]:  # noqa: ARG002  (all streams are of images)
        return (1, SIZE, SIZE)

    def load(self, split: Split) -> Images:
        if self._all is None:
            self._all = load_characters(self.root, list(HALVES)[:1] if self.partition == "small" else list(HALVES))
        return pick(self._all, self._members(split, self._all.names))

    def _members(self, split: Split, names: Sequence[str]) -> Iterable[Class]:
        """Characters and rotations of a split; `names` are HALF/Alphabet/characterNN."""
        if self.partition == "vinyals":
            return vinyals(self.root, split)
        characters = [name.split("/", 1)[1] for name in names]
        if self.partition == "maml":
            chosen = maml(characters, split, self.split_seed)
        elif self.partition == "lake":
            chosen = [c for c, name in zip(characters, names, strict=True) if lake(name) == split]
        else:
            chosen = [c for c in characters if c.split("/")[0] in SMALL[split]]
        return [(c, degrees) for c in chosen for degrees in (ROTATIONS if split == "train" else ROTATIONS[:1])]


# ------------------------------------------------------------------------------------------------- partitions


def maml(characters: Sequence[str], split: Split, seed: int) -> list[str]:
    """The split's characters; the order is that of a hash, so no library's shuffle can ever change it."""
    order = sorted(characters, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    first = {"train": 0, "val": MAML["train"], "test": MAML["train"] + MAML["val"]}[split]
    return sorted(order[first : first + MAML[split]])


def lake(name: str) -> Split:
    """The split that HALF/Alphabet/characterNN belongs to."""
    half, alphabet, _ = name.split("/")
    if half == "images_evaluation":
        return "test"
    return "val" if alphabet in LAKE_VAL else "train"


def vinyals(root: str | os.PathLike[str] | None, split: Split) -> list[Class]:
    """Classes of a split, from lines Alphabet/characterNN/rotXXX.

    Raises:
        DataError: the list is missing, or something else.
    """
    from metarun.data.download import vinyals_list  # needs pooch, and maybe the network

    path = vinyals_list(_bases(root), split)
    lines = [line.rpartition("/rot") for line in read_text(path).split()]
    if wrong := ["".join(line) for line in lines if line[2] not in map("{:03d}".format, ROTATIONS)]:
        raise DataError(f"{path} must hold lines Alphabet/characterNN/rotXXX; got {wrong[0]!r}")
    return [(name, int(degrees)) for name, _, degrees in lines]


def pick(images: Images, classes: Iterable[Class]) -> Images:
    """The images of some characters, turned counter-clockwise; named Alphabet/characterNN/rotXXX.

    Raises:
        DataError: there is no such character.
    """
    number = {name.split("/", 1)[1]: i for i, name in enumerate(images.names)}
    chosen = list(classes)
    if unknown := [name for name, _ in chosen if name not in number]:
        raise DataError(f"Omniglot has no character {unknown[0]} (and {len(unknown) - 1} others of the partition)")
    starts, counts = images.starts.tolist(), images.counts.tolist()
    pieces = []
    for name, degrees in chosen:
        start = starts[number[name]]
        drawings = images.pixels[start : start + counts[number[name]]]
        pieces.append(torch.rot90(drawings, degrees // 90, (-2, -1)))
    names = tuple(f"{name}/rot{degrees:03d}" for name, degrees in chosen)
    return Images(torch.cat(pieces), names, torch.tensor([len(piece) for piece in pieces]))


# ------------------------------------------------------------------------------------------------------ files


def _bases(root: str | os.PathLike[str] | None) -> list[Path]:
    below = ("", "omniglot", "omniglot-py", "omniglot/omniglot-py")
    return [folder / name for folder in data_roots(root) for name in below]


def load_characters(root: str | os.PathLike[str] | None, halves: Sequence[str]) -> Images:
    """All drawings of the halves, `[images, 1, 28, 28]`; classes HALF/Alphabet/characterNN, in sorted order.

    Raises:
        DataError: a half is missing or not complete.
    """
    bases = _bases(root)
    for base in bases:
        sources = {half: path for half in halves if (path := _source(base, half))}
        if len(sources) == len(halves):
            return _load(sources)
    both = " and ".join(halves) + " (folders or .zip)"
    raise missing("Omniglot", [base / name for base in bases for name in (both, "omniglot_png.zip")], COMMAND)


def _load(sources: dict[str, Path]) -> Images:
    opened = {path: open_files(path) for path in dict.fromkeys(sources.values())}
    characters = _characters(sources, opened)
    members: dict[Files, list[str]] = {files: [] for files in opened.values()}
    for files, names in characters.values():
        members[files] += names
    key = [list(sources), SIZE, *(files.fingerprint(names) for files, names in members.items())]
    images = cached("omniglot", key, lambda: _contents(characters, members))
    for half, path in sources.items():
        number = sum(name.startswith(half) for name in images.names)
        if number != HALVES[half] or images.counts.unique().tolist() != [DRAWINGS]:
            raise DataError(
                f"{path} must hold the {HALVES[half]} characters of {DRAWINGS} drawings of Omniglot's {half}; "
                f"got {number} of {images.counts.min()} to {images.counts.max()}"
            )
    return images


def _source(base: Path, half: str) -> Path | None:
    candidates = (base / half, base / f"{half}.zip", base / "omniglot_png.zip")
    return next((path for path in candidates if path.exists()), None)


def _characters(sources: dict[str, Path], opened: dict[Path, Files]) -> dict[str, tuple[Files, list[str]]]:
    """The drawings of each character, HALF/Alphabet/characterNN, in sorted order, and where they lie.

    Raises:
        DataError: there are none.
    """
    characters: dict[str, tuple[Files, list[str]]] = {}
    for half, path in sources.items():
        for name in opened[path].names():
            if (character := _character(half, path, name)) and is_image(name):
                characters.setdefault(character, (opened[path], []))[1].append(name)
    if not characters:
        raise DataError(f"no image of the form ALPHABET/characterNN/*.png in {', '.join(map(str, opened))}")
    return dict(sorted(characters.items()))


def _contents(characters: dict[str, tuple[Files, list[str]]], members: dict[Files, list[str]]) -> Contents:
    def chunks() -> Iterator[np.ndarray]:
        for files, names in members.items():
            for chunk in decoded(files, names, ImageDecoder(1, SIZE, SIZE)):
                yield 255 - chunk

    return Contents(list(characters), [len(names) for _, names in characters.values()], (1, SIZE, SIZE), chunks())


def _character(half: str, path: Path, name: str) -> str | None:
    """HALF/Alphabet/characterNN of a file; None if it does not belong to that half."""
    parts = PurePosixPath(name).parts
    if path.name == half and len(parts) == 3:  # a folder of that name: names begin below it
        return "/".join((half, *parts[:2]))
    if half in parts and len(parts) == parts.index(half) + 4:
        return "/".join(parts[parts.index(half) : -1])
    return None
