"""Image files of a folder or an archive, decoded into arrays of bytes by a few threads."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from metarun.images.cache import Contents
from metarun.images.files import Files, Folder, disguise_of, is_image
from metarun.images.notices import counted, listed
from metarun.images.pixels import Decoded, ImageDecoder
from metarun.tasks import DataError

CHUNK = 256  # images decoded as one piece of work


class Survey:
    """Counts, while images are decoded by several threads, what of them is worth a word."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.animated: list[str] = []
        self.sizes: Counter[tuple[int, int]] = Counter()

    def add(self, name: str, image: Decoded) -> None:
        with self._lock:
            self.sizes[image.width, image.height] += 1
            if image.animated:
                self.animated.append(name)

    def words(self, size: int | None) -> list[str]:
        """Of frames; where `size` is that of square images, as a user chose it, of what is enlarged or stretched."""
        words = []
        if self.animated:
            names = listed(sorted(self.animated))
            words.append(f"the first frame is taken of {counted(len(self.animated), 'image')} with several: {names}")
        small = {at: n for at, n in self.sizes.items() if size and max(at) < size}
        if small:
            width, height = min(small)
            words.append(
                f"{counted(sum(small.values()), 'image')} of {self.sizes.total():,} smaller than data.size={size}, the "
                f"smallest of {width} x {height} pixels, are enlarged"
            )
        oblong = sum(n for (width, height), n in self.sizes.items() if size and width != height)
        if oblong:
            words.append(f"{counted(oblong, 'image')} of {self.sizes.total():,} not square, stretched to a square")
        return words


def decoded(
    files: Files, members: Sequence[str], decoder: ImageDecoder, survey: Survey | None = None
) -> Iterator[np.ndarray]:
    """uint8 chunks `[n, C, H, W]` of the images `members`, in that order, decoded by a few threads.

    Threads suffice: Pillow decodes without holding the interpreter's lock.

    Raises:
        DataError: a member cannot be read as an image.
    """

    def work(names: Sequence[str]) -> np.ndarray:
        images = [decode_file(files.read(name), f"{name} in {files}", decoder) for name in names]
        if survey is not None:
            for name, image in zip(names, images, strict=True):
                survey.add(name, image)
        return np.stack([image.pixels for image in images])

    workers = min(8, os.cpu_count() or 1)
    pieces = (members[start : start + CHUNK] for start in range(0, len(members), CHUNK))
    pool = ThreadPoolExecutor(workers)
    try:
        ahead: list[Future[np.ndarray]] = []
        for piece in pieces:
            ahead.append(pool.submit(work, piece))
            if len(ahead) > 2 * workers:  # a bound, so that a slow disk does not fill the memory
                yield ahead.pop(0).result()
        for future in ahead:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # after an error nobody waits for the rest


def by_class(files: Files, below: str) -> dict[str, list[str]]:
    """Images of the form [BELOW/]CLASS/IMAGE, by class, both in sorted order; `below` may be empty."""
    depth = len(PurePosixPath(below).parts)
    classes: dict[str, list[str]] = {}
    for name in files.names():
        parts = PurePosixPath(name).parts
        if is_image(name) and len(parts) == depth + 2 and PurePosixPath(*parts[:depth]) == PurePosixPath(below):
            classes.setdefault(parts[depth], []).append(name)
    return dict(sorted(classes.items()))


def left_out(folder: Folder) -> list[str]:
    """What `by_class(folder, "")` does not take: files with the reasons, and classes without an image."""
    listing, reasons = folder.listing(), Counter[str]()
    reasons["no regular file"] = len(listing.irregular)
    classes = set()
    for name in listing.files:
        depth, suffix = len(PurePosixPath(name).parts), PurePosixPath(name).suffix.lower()
        if not is_image(name):
            reasons[f"with the suffix {suffix}" if suffix else "without a suffix"] += 1
        elif depth == 2:
            classes.add(name.partition("/")[0])
        else:
            reasons["in no folder of a class" if depth == 1 else "in a folder inside that of a class"] += 1
    words = []
    if total := reasons.total():
        parts = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common() if n)
        words.append(f"{counted(total, 'file')} skipped: {parts}")
    empty = [name for name in listing.folders if "/" not in name and name not in classes]
    if empty:
        words.append(f"{counted(len(empty), 'folder')} without an image directly inside, no class: {listed(empty)}")
    return words


def class_contents(
    files: Files, classes: Mapping[str, Sequence[str]], decoder: ImageDecoder, size: int | None = None
) -> Contents:
    """The images of these classes.

    Args:
        files: where they lie.
        classes: names of the files, by class.
        decoder: decides channels and size.
        size: see `Survey.words`.
    """
    members = [name for names in classes.values() for name in names]
    survey, notes = Survey(), list[str]()

    def chunks() -> Iterator[np.ndarray]:
        yield from decoded(files, members, decoder, survey)
        notes.extend(survey.words(size))

    shape = (decoder.channels, decoder.height, decoder.width)
    return Contents(list(classes), [len(names) for names in classes.values()], shape, chunks(), notes)


def array_contents(pixels: np.ndarray, classes: Mapping[str, np.ndarray], decoder: ImageDecoder) -> Contents:
    """Images that lie decoded in an array.

    Args:
        pixels: uint8 `[n, H, W, C]`.
        classes: indices of the images, by class.
        decoder: decides channels and size; images that have them already stay as they are.
    """
    order = np.concatenate(list(classes.values()))
    shape = (decoder.channels, decoder.height, decoder.width)

    def chunks() -> Iterator[np.ndarray]:
        for start in range(0, len(order), CHUNK):
            yield prepared(pixels[order[start : start + CHUNK]], decoder)

    return Contents(list(classes), [len(indices) for indices in classes.values()], shape, chunks())


def prepared(images: np.ndarray, decoder: ImageDecoder) -> np.ndarray:
    """Decoded images, uint8 `[n, H, W, C]`, as `decoder` has those of files: `[n, channels, height, width]`."""
    if images.shape[1:] == (decoder.height, decoder.width, decoder.channels):
        return images.transpose(0, 3, 1, 2)
    plain = images[..., 0] if images.shape[-1] == 1 else images
    return np.stack([decoder.prepare(Image.fromarray(image)) for image in plain])


def decode_file(data: bytes, name: str, decoder: ImageDecoder) -> Decoded:
    """Decode the bytes of a file.

    Raises:
        DataError: it, `name`, cannot be read as an image.
    """
    try:
        return decoder.decode(data)
    except Exception as error:  # Pillow's plugins raise anything on damaged bytes
        what = f"it is {found}" if (found := disguise_of(data)) else str(error) or type(error).__name__
        raise DataError(f"{name} cannot be read as an image: {what}") from error
