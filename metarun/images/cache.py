"""The image cache: decode once, keep as one memory-mappable array of bytes, load in milliseconds.

A source of images (folder, zip, pickle) is decoded into one uint8 array `[images, C, H, W]`, class after class, in the
user's cache folder, so that the data's own folder may be read-only. Where every class has the same number of images
these are the bytes of `[classes, per_class, C, H, W]`; where not, nothing is padded.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs
import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from metarun.images.store import Images
from metarun.tasks import DataError

FORMAT = 1  # to be raised whenever the meaning of cached bytes changes, so that no old cache is read as a new one


class Contents(NamedTuple):
    """What a builder promises: class `names`, their `counts`, images' `shape` (C, H, W); uint8 `chunks`."""

    names: Sequence[str]
    counts: Sequence[int]
    shape: tuple[int, int, int]
    chunks: Iterator[np.ndarray]


def cache_folder() -> Path:
    """Where metarun keeps what it can make again: `METARUN_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("METARUN_CACHE") or platformdirs.user_cache_dir("metarun"))


def cached(label: str, key: Sequence[object], build: Callable[[], Contents]) -> Images:
    """Images from the cache, or from `build` on the first call with this `key`; built whole or not at all.

    If two processes start at once, one builds; the other waits, then reads. The next build removes what a killed one
    left behind.

    Args:
        label: begins the name of the entry, for people.
        key: what the images depend on, such as size and the source's fingerprint; JSON can write it.
        build: opens the source.

    Raises:
        DataError: the source cannot be decoded, or the cache folder cannot be written.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, label, *key]).encode()).hexdigest()[:20]
    place = cache_folder() / "images" / f"{label}-{digest}"
    if not place.exists():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{place}.lock"):
                if not place.exists():
                    _write(label, place, build)
        except OSError as error:
            raise DataError(
                f"the image cache {place.parent} cannot be written ({error}): free space there, or name another "
                f"folder in the environment variable METARUN_CACHE"
            ) from error
    return _read(place)


def _read(place: Path) -> Images:
    index = json.loads((place / "index.json").read_text())
    # Copy-on-write: torch warns of read-only arrays, and nobody writes to this one.
    pixels = np.load(place / "pixels.npy", mmap_mode="c")
    return Images(torch.from_numpy(pixels), tuple(index["names"]), torch.tensor(index["counts"]))


def _write(label: str, place: Path, build: Callable[[], Contents]) -> None:
    for stale in place.parent.glob(f"{place.name}.building-*"):
        shutil.rmtree(stale, ignore_errors=True)
    building = place.with_name(f"{place.name}.building-{os.getpid()}")
    building.mkdir()
    try:
        contents = build()
        # Written as a stream: through a memory map a full disk would be a bus error, not an exception.
        with open(building / "pixels.npy", "wb") as file:
            _stream(file, label, contents)
            file.flush()
            os.fsync(file.fileno())
        index = {"names": list(contents.names), "counts": [int(count) for count in contents.counts]}
        (building / "index.json").write_text(json.dumps(index))
        os.replace(building, place)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _stream(file: io.BufferedWriter, label: str, contents: Contents) -> None:
    total = int(sum(contents.counts))
    header = {"descr": "|u1", "fortran_order": False, "shape": (total, *contents.shape)}
    np.lib.format.write_array_header_2_0(file, header)
    written = 0
    with _progress_bar() as progress:
        bar = progress.add_task(f"decoding {label} (once)", total=total)
        for chunk in contents.chunks:
            assert chunk.dtype == np.uint8 and chunk.shape[1:] == contents.shape, (chunk.dtype, chunk.shape)
            file.write(np.ascontiguousarray(chunk).data)
            written += len(chunk)
            progress.update(bar, completed=written)
    assert written == total, f"{label}: {written} images written, {total} promised"


def _progress_bar() -> Progress:
    """A bar on stderr that vanishes when done; silent where stderr is not a terminal."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
