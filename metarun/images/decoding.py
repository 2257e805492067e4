"""Image files, decoded into arrays of bytes by a few threads."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from metarun.images.cache import Contents
from metarun.images.files import Files, is_image
from metarun.tasks import DataError

CHUNK = 256  # images decoded as one piece of work

Decoder = Callable[[bytes], np.ndarray]


def decoded(files: Files, members: Sequence[str], decode: Decoder) -> Iterator[np.ndarray]:
    """uint8 chunks `[n, C, H, W]` of the images `members`, in that order, decoded by a few threads.

    Threads suffice: Pillow decodes without holding the interpreter's lock.

    Raises:
        DataError: a member cannot be read as an image.
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

    Raises:
        DataError: there are none.
    """
    classes = by_class(files, below)
    if not classes:
        raise DataError(f"no image of the form {below + '/' if below else ''}CLASS/IMAGE in {files}")
    members = [name for names in classes.values() for name in names]
    chunks = decoded(files, members, image_decoder(channels, size, size))
    return Contents(list(classes), [len(names) for names in classes.values()], (channels, size, size), chunks)


def image_decoder(channels: int, height: int, width: int) -> Decoder:
    """A decoder: bytes of an image file -> uint8 `[channels, height, width]`.

    Grey for one channel, RGB for three. An image of another size is stretched, with an antialiased Lanczos filter. The
    conversion comes first, because Pillow resizes one-bit images such as Omniglot's by nearest neighbour, whatever
    filter is asked for.
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


def _decode_one(files: Files, name: str, decode: Decoder) -> np.ndarray:
    try:
        return decode(files.read(name))
    except (OSError, ValueError, zipfile.BadZipFile, Image.DecompressionBombError) as error:
        raise DataError(f"{name} in {files} cannot be read as an image: {error}") from error
