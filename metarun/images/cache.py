"""The image cache: decode once, keep as one memory-mappable array of bytes, load in milliseconds.

A source of images (folder, zip, pickle) is decoded into one uint8 array `[images, C, H, W]`, class after class, in the
user's cache folder, so that the data's own folder may be read-only. Where every class has the same number of images
these are the bytes of `[classes, per_class, C, H, W]`; where not, nothing is padded.

Entries go by content: a folder that is moved, or copied for each job, has one entry, and a changed file makes another.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs
import torch
from filelock import FileLock, Timeout

from metarun.images.notices import progress_bar, tell
from metarun.images.store import Images
from metarun.tasks import DataError

FORMAT = 2  # to be raised whenever the meaning of cached bytes changes, so that no old cache is read as a new one
ENTRY = re.compile(r"([\w-]+-[0-9a-f]{20})(\.building-\d+)?")  # names that metarun gives; all else is left alone


class Contents(NamedTuple):
    """What a builder promises.

    Attributes:
        names: the classes.
        counts: images of each.
        shape: of an image, (C, H, W).
        chunks: uint8 `[n, C, H, W]`, in order.
        notes: what is worth a word whenever the images are loaded; complete once `chunks` has ended.
    """

    names: Sequence[str]
    counts: Sequence[int]
    shape: tuple[int, int, int]
    chunks: Iterator[np.ndarray]
    notes: Sequence[str] = ()


class Entry(NamedTuple):
    """What lies in the cache under one name.

    Attributes:
        path: its folder.
        size: bytes.
    """

    path: Path
    size: int


def cache_folder() -> Path:
    """Where metarun keeps what it can make again: `METARUN_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("METARUN_CACHE") or platformdirs.user_cache_dir("metarun"))


def cached(label: str, key: Sequence[object], build: Callable[[], Contents]) -> Images:
    """Images from the cache, or from `build` on the first call with this `key`; built whole or not at all.

    If two processes start at once, one builds; the other waits, then reads. The next build removes what a killed one
    left behind, and replaces a damaged entry.

    Args:
        label: begins the name of the entry, for people.
        key: what the images depend on, such as size and the source's fingerprint; JSON can write it.
        build: opens the source.

    Raises:
        DataError: the source cannot be decoded, or the cache folder cannot be written.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, label, *key]).encode()).hexdigest()[:20]
    place = cache_folder() / "images" / f"{label}-{digest}"
    if (images := _read(place)) is not None:
        return images
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            if (images := _read(place)) is None:
                _replace(label, place, build)
                images = _read(place)
    except OSError as error:
        raise DataError(
            f"the image cache {place.parent} cannot be written ({error}): free space there, or name another "
            f"folder in the environment variable METARUN_CACHE"
        ) from error
    if images is None:
        raise DataError(f"the image cache {place} cannot be read although it was just written: is the disk sound?")
    return images


def entries() -> list[Entry]:
    """What the cache holds of images; nothing that only happens to lie beside it."""
    folder = cache_folder() / "images"
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [Entry(path, _size(path)) for path in paths if path.is_dir() and ENTRY.fullmatch(path.name)]


def clear() -> tuple[list[Entry], list[Entry]]:
    """Remove what the cache holds of images, but for what a process builds at this moment.

    Returns:
        What was removed, and what was not.
    """
    folder = cache_folder() / "images"
    removed, kept = [], []
    for entry in entries():
        lock = Path(f"{folder / entry.path.name.partition('.')[0]}.lock")
        try:
            with FileLock(lock, timeout=0):
                shutil.rmtree(entry.path)
            removed.append(entry)
        except (Timeout, OSError):
            kept.append(entry)
    used = {f"{entry.path.name.partition('.')[0]}.lock" for entry in kept}
    for lock in folder.glob("*.lock"):
        if ENTRY.fullmatch(lock.stem) and lock.name not in used:
            lock.unlink(missing_ok=True)
    shutil.rmtree(cache_folder() / "digests", ignore_errors=True)
    return removed, kept


def _size(path: Path) -> int:
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())


def _read(place: Path) -> Images | None:
    """The images of an entry; None where there is none, or it is damaged."""
    if not place.exists():
        return None
    try:
        index = json.loads((place / "index.json").read_text())
        # Copy-on-write: torch warns of read-only arrays, and nobody writes to this one.
        pixels = np.load(place / "pixels.npy", mmap_mode="c", allow_pickle=False)
        names, counts, notes = tuple(index["names"]), torch.tensor(index["counts"]), tuple(index["notes"])
        whole = pixels.dtype == np.uint8 and pixels.ndim == 4 and len(names) == len(counts) > 0
        if not whole or counts.dtype != torch.int64 or int(counts.min()) < 1 or int(counts.sum()) != len(pixels):
            raise ValueError("index and pixels do not fit each other")
        return Images(torch.from_numpy(pixels), names, counts, notes)
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError) as error:
        tell(f"the image cache {place} is damaged ({error}) and is made again")
        return None


def _replace(label: str, place: Path, build: Callable[[], Contents]) -> None:
    """Build an entry in the place of nothing, or of a damaged one."""
    for stale in place.parent.glob(f"{place.name}.building-*"):
        shutil.rmtree(stale, ignore_errors=True)
    building = place.with_name(f"{place.name}.building-{os.getpid()}")
    building.mkdir()
    try:
        _write(label, building, build())
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        os.replace(building, place)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    tell(
        f"decoded images are kept in {place} ({_size(place) / 1e6:,.0f} MB); METARUN_CACHE names another folder, "
        f"metarun-download --clear-cache removes them"
    )


def _write(label: str, building: Path, contents: Contents) -> None:
    # Written as a stream: through a memory map a full disk would be a bus error, not an exception.
    with open(building / "pixels.npy", "wb") as file:
        _stream(file, label, contents)
        file.flush()
        os.fsync(file.fileno())
    index = {"names": list(contents.names), "counts": [int(n) for n in contents.counts], "notes": list(contents.notes)}
    (building / "index.json").write_text(json.dumps(index))


def _stream(file: io.BufferedWriter, label: str, contents: Contents) -> None:
    total = int(sum(contents.counts))
    header = {"descr": "|u1", "fortran_order": False, "shape": (total, *contents.shape)}
    np.lib.format.write_array_header_2_0(file, header)
    written = 0
    with progress_bar() as progress:
        bar = progress.add_task(f"decoding {label} (once)", total=total)
        for chunk in contents.chunks:
            assert chunk.dtype == np.uint8 and chunk.shape[1:] == contents.shape, (chunk.dtype, chunk.shape)
            file.write(np.ascontiguousarray(chunk).data)
            written += len(chunk)
            progress.update(bar, completed=written)
    assert written == total, f"{label}: {written} images written, {total} promised"
