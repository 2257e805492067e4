"""The image store: decode once, keep as one memory-mappable array of bytes, load in milliseconds.

A source of images (folder, zip, pickle) is decoded into one uint8 array `[images, C, H, W]`, class after
class, in the user's cache folder, so that the data's own folder may be read-only. Where every class has the
same number of images these are the bytes of `[classes, per_class, C, H, W]`;
where not, nothing is padded.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import platformdirs
import torch
from filelock import FileLock
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from metarun.images.files import Files, is_image
from metarun.tasks import DataError

FORMAT = 1  # raised whenever the meaning of cached bytes changes, so that no old cache is taken for a new one
CHUNK = 256  # images decoded as one piece of work

Decoder = Callable[[bytes], np.ndarray]


@dataclass(frozen=True)
class Images:
    """Decoded images: `pixels [images, C, H, W]` (uint8), class after class.

    `names` are the classes, `counts [classes]` (int64) the images of each; class c begins at `starts[c]`.
    """

    pixels: Tensor
    names: tuple[str, ...]
    counts: Tensor

    @property
    def starts(self) -> Tensor:
        return self.counts.cumsum(0) - self.counts


class Contents(NamedTuple):
    """What a builder promises: class `names`, their `counts`, images' `shape` (C, H, W); uint8 `chunks`."""

    names: Sequence[str]
    counts: Sequence[int]
    shape: tuple[int, int, int]
    chunks: Iterator[np.ndarray]


# ------------------------------------------------------------------------------------------- where things are


def cache_folder() -> Path:
    """Where decoded images are kept: `METARUN_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("METARUN_CACHE") or platformdirs.user_cache_dir("metarun"))


def data_roots(root: str | os.PathLike[str] | None) -> list[Path]:
    """Folders to look for data in: `root`, else `METARUN_DATA`, else ./data and the user's data folder."""
    named = root or os.environ.get("METARUN_DATA")
    if named:
        return [Path(named).expanduser()]
    return [Path("data"), Path(platformdirs.user_data_dir("metarun"))]


def missing(what: str, places: Sequence[object], command: str) -> DataError:
    """The one error for data that is not there: what was looked for, where, and what to do."""
    looked = "\n".join(f"    {place}" for place in places)
    return DataError(
        f"{what} not found. Looked for:\n{looked}\n"
        f"Download it:\n    {command}\n"
        f"or say where it is: data.root=FOLDER, or the environment variable METARUN_DATA."
    )


# -------------------------------------------------------------------------------------------------- the cache


def cached(label: str, key: Sequence[object], build: Callable[[], Contents]) -> Images:
    """Images from the cache, or from `build` on the first call with this `key`; built whole or not at all.

    Of two processes that start at once one builds, the other waits and then reads. What a killed build left
    behind is swept away by the next.

    Raises
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
                f"the image cache {place.parent} cannot be written ({error}): free space there, or name "
                f"another folder in the environment variable METARUN_CACHE"
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
    columns = MofNCompleteColumn(), TimeRemainingColumn()
    with progress_bar(*columns) as progress:
        bar = progress.add_task(f"decoding {label} (once)", total=total)
        for chunk in contents.chunks:
            assert chunk.dtype == np.uint8 and chunk.shape[1:] == contents.shape, (chunk.dtype, chunk.shape)
            file.write(np.ascontiguousarray(chunk).data)
            written += len(chunk)
            progress.update(bar, completed=written)
    assert written == total, f"{label}: {written} images written, {total} promised"


def progress_bar(*columns: ProgressColumn) -> Progress:
    """A bar on stderr that vanishes when done; silent when stderr is no terminal."""
    console = Console(stderr=True)
    shown = TextColumn("{task.description}"), BarColumn(), *columns
    return Progress(*shown, console=console, transient=True, disable=not console.is_terminal)


# --------------------------------------------------------------------------------------------------- decoding


def decoded(files: Files, members: Sequence[str], decode: Decoder) -> Iterator[np.ndarray]:
    """uint8 chunks `[n, C, H, W]` of the images `members`, in that order, decoded by a few threads.

    Threads suffice: Pillow decodes without holding the interpreter's lock.
    """

    def work(names: Sequence[str]) -> np.ndarray:
        return np.stack([_decode_one(files, name, decode) for name in names])

    workers = min(8, os.cpu_count() or 1)
    pieces = (members[start : start + CHUNK] for start in range(0, len(members), CHUNK))
    with ThreadPoolExecutor(workers) as pool:
        ahead: list[Future[np.ndarray]] = []
        for piece in pieces:
            ahead.append(pool.submit(work, piece))
            if len(ahead) > 2 * workers:  # a bound, so that a slow disk does not fill the memory
                yield ahead.pop(0).result()
        for future in ahead:
            yield future.result()


def by_class(files: Files, below: str) -> dict[str, list[str]]:
    """Images of the form [BELOW/]CLASS/IMAGE, by class, both in sorted order; `below` may be empty."""
    depth = len(PurePosixPath(below).parts)
    classes: dict[str, list[str]] = {}
    for name in files.names():
        parts = PurePosixPath(name).parts
        if is_image(name) and len(parts) == depth + 2 and PurePosixPath(*parts[:depth]) == PurePosixPath(below):
            classes.setdefault(parts[depth], []).append(name)
    return dict(sorted(classes.items()))


def folder_contents(files: Files, below: str, channels: int, size: int) -> Contents:
    """The images [BELOW/]CLASS/IMAGE at `size` x `size` pixels.

    Raises
        DataError: there are none.
    """
    classes = by_class(files, below)
    if not classes:
        raise DataError(f"no image of the form {below + '/' if below else ''}CLASS/IMAGE in {files}")
    members = [name for names in classes.values() for name in names]
    chunks = decoded(files, members, image_decoder(channels, size, size))
    return Contents(list(classes), [len(names) for names in classes.values()], (channels, size, size), chunks)


def _decode_one(files: Files, name: str, decode: Decoder) -> np.ndarray:
    try:
        return decode(files.read(name))
    except (OSError, ValueError, zipfile.BadZipFile, Image.DecompressionBombError) as error:
        raise DataError(f"{name} in {files} cannot be read as an image: {error}") from error


def image_decoder(channels: int, height: int, width: int) -> Decoder:
    """Bytes of an image file -> uint8 `[channels, height, width]`, stretched to that size where it differs.

    Grey for one channel, RGB for three; the filter is Lanczos (antialiased). The conversion comes first,
    because Pillow resizes one-bit images such as Omniglot's by nearest neighbour whatever is asked for.
    """
    mode = {1: "L", 3: "RGB"}[channels]

    def decode(data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data)) as image:
            converted = image.convert(mode)
        if converted.size != (width, height):
            converted = converted.resize((width, height), Image.Resampling.LANCZOS)
        pixels = np.asarray(converted).reshape(height, width, channels)
        return pixels.transpose(2, 0, 1)

    return decode


# ---------------------------------------------------------------------------------------------------- pickles
