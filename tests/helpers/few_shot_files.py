"""Little files in the exact forms in which CIFAR-100, MetaOptNet, TADAM, Ren et al. and CUB leave their data."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metarun.data.cifar100 import CLASSES, SUPERCLASSES

PER_CLASS = 3  # two in CIFAR-100's file train, one in test
BIRDS = [f"{i:03d}.Bird_{i}" for i in range(1, 9)]
COARSE = {name: i for i, names in enumerate(SUPERCLASSES.values()) for name in names}


class _Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes text and bytes as Python 2's `str`, as the published pickles have them."""

    dispatch = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_string(self, value: Any) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        small = len(data) < 256
        self.write((b"U" + bytes([len(data)]) if small else b"T" + struct.pack("<i", len(data))) + data)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def python2_pickle(value: Any) -> bytes:
    """What Python 2's `cPickle.dumps(value, 2)` wrote, of arrays of NumPy 1."""
    buffer = io.BytesIO()
    _Python2Pickler(buffer, 2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def pixels(name: str, size: int = 32) -> np.ndarray:
    """The images of a class, `[PER_CLASS, size, size, 3]`."""
    seed = CLASSES.index(name) if name in CLASSES else sum(name.encode())
    return np.random.RandomState(seed).randint(256, size=(PER_CLASS, size, size, 3), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    """A PNG file, which loses nothing."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def shuffled(classes: tuple[str, ...]) -> tuple[np.ndarray, list[str]]:
    """The images of some classes and the class of each, in no order of classes; those of a class in order."""
    order = np.random.RandomState(0).permutation(np.repeat(np.arange(len(classes)), PER_CLASS))
    seen = dict.fromkeys(classes, 0)
    images, names = [], []
    for name in (classes[i] for i in order):
        images.append(pixels(name)[seen[name]])
        seen[name] += 1
        names.append(name)
    return np.stack(images), names


def write_python_folder(root: Path) -> Path:
    """`cifar-100-python/` as torchvision leaves it: rows of 3072 bytes, channel after channel."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for file, members in (("train", slice(0, 2)), ("test", slice(2, 3))):
        rows = np.concatenate([pixels(name)[members] for name in CLASSES])
        fine = np.repeat(np.arange(100), len(rows) // 100)
        order = np.random.RandomState(1).permutation(100)
        order = np.concatenate([np.flatnonzero(fine == label) for label in order])
        data = {
            "filenames": [f"{CLASSES[fine[i]]}_s_{i:06d}.png" for i in order],
            "batch_label": "training batch 1 of 1",
            "fine_labels": [int(fine[i]) for i in order],
            "coarse_labels": [COARSE[CLASSES[fine[i]]] for i in order],
            "data": rows[order].transpose(0, 3, 1, 2).reshape(len(rows), -1),
        }
        (folder / file).write_bytes(python2_pickle(data))
    meta = {"fine_label_names": list(CLASSES), "coarse_label_names": list(SUPERCLASSES)}
    (folder / "meta").write_bytes(python2_pickle(meta))
    return folder


def class_files(classes: tuple[str, ...] = CLASSES) -> Mapping[str, bytes]:
    """PNG files by name, CLASS/IMAGE."""
    return {f"{name}/{name}_s_{i:06d}.png": png(x) for name in classes for i, x in enumerate(pixels(name))}


def write_authors_zip(root: Path, splits: Mapping[Any, tuple[str, ...]], name: str = "cifar100.zip") -> Path:
    """The archive of CIFAR-FS's authors: cifar100/data/CLASS/IMAGE and cifar100/splits/bertinetto/SPLIT.txt."""
    root.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(root / name, "w") as archive:
        for file, data in class_files().items():
            archive.writestr(f"cifar100/data/{file}", data)
        for split, classes in splits.items():
            archive.writestr(f"cifar100/splits/bertinetto/{split}.txt", "".join(f"{name}\n" for name in classes))
    return root / name


def write_metaoptnet_pickle(path: Path, classes: tuple[str, ...], numbers: Mapping[str, int]) -> None:
    """`data [n, 32, 32, 3]` and a list `labels`, as MetaOptNet's pickles of CIFAR-FS and FC100."""
    images, names = shuffled(classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(python2_pickle({"data": images, "labels": [numbers[name] for name in names]}))


def write_tadam_npz(path: Path, classes: tuple[str, ...]) -> None:
    """`features` and `targets` (fine labels), as TADAM's create_dataset_cifar100.py saves them."""
    images, names = shuffled(classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, features=images, targets=np.array([CLASSES.index(name) for name in names]))


def write_cub(root: Path) -> None:
    """CUB_200_2011: images.txt, images/CLASS/IMAGE and classes.txt; 4 or 6 oblong photographs a class, of one grey."""
    number, lines = 0, []
    for i, name in enumerate(BIRDS):
        (root / "images" / name).mkdir(parents=True)
        for k in range(4 + 2 * (i % 2)):
            number += 1
            file = f"{name}/Bird_{i}_{k:04d}_{1000 + k}.jpg"
            Image.new("RGB", (50, 37), (30 * i, 30 * i, 30 * i)).save(root / "images" / file)
            lines.append(f"{number} {file}\n")
    (root / "images.txt").write_text("".join(lines))
    (root / "classes.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(BIRDS, 1)))


def write_little_omniglot(root: Path, halves: Mapping[str, int], drawings: int) -> None:
    """omniglot/HALF/Alpha/characterNN/DRAWING, one-bit, as Omniglot's zips have them."""
    for half, characters in halves.items():
        for c in range(1, characters + 1):
            folder = root / "omniglot" / half / "Alpha" / f"character{c:02d}"
            folder.mkdir(parents=True)
            for d in range(drawings):
                ink = np.ones((105, 105), bool)
                ink[: 2 * c, : 9 + d] = False
                Image.fromarray(ink).save(folder / f"{c:04d}_{d:02d}.png")
