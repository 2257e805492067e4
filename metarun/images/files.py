"""Where image files lie: a folder or a zip archive, read in the same way, and never more of it than an image takes."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, Protocol

from metarun.images.digests import content_digests
from metarun.tasks import DataError

SUFFIXES = frozenset(
    {
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".tga"),
    }
)
# What systems and tools leave beside people's files, beyond names that begin with a dot; in lower case.
SYSTEM_NAMES = frozenset(
    {
        *("__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "#recycle", "lost+found"),
        *("system volume information", "__pycache__"),
    }
)
MAX_BYTES = 1 << 28  # of one image file: a limit on what a broken or hostile one takes of the memory


class Files(Protocol):
    """A folder or an archive: names with '/', bytes by name, and a fingerprint of contents."""

    def names(self) -> list[str]:
        """Names of the files, sorted, without those that `is_hidden`."""

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            DataError: it cannot be read, or has more than `MAX_BYTES`.
        """

    def fingerprint(self, names: Sequence[str]) -> list[Any]:
        """What changes with names and contents of these files, and not with the place where all of them lie."""


class Listing(NamedTuple):
    """What lies below a folder, hidden names left out; paths with '/'.

    Attributes:
        files: regular files, sorted.
        folders: folders.
        irregular: pipes, sockets and devices, which are never opened.
    """

    files: list[str]
    folders: list[str]
    irregular: list[str]


class Folder:
    """The files below a folder."""

    def __init__(self, path: Path):
        self.path = path.resolve()
        self._listing: Listing | None = None

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        return self.listing().files

    def read(self, name: str) -> bytes:
        with open_regular(self.path / name) as file:
            return read_bounded(file, f"{name} in {self}", os.fstat(file.fileno()).st_size)

    def fingerprint(self, names: Sequence[str]) -> list[Any]:
        return sorted(self.digests(names).items())

    def digests(self, names: Sequence[str]) -> dict[str, str]:
        """A digest of the content of each of these files.

        Raises:
            DataError: one cannot be read.
        """
        return content_digests(self.path, names, open_regular)

    def listing(self) -> Listing:
        """What lies below the folder.

        Raises:
            DataError: a folder cannot be read, or a link leads nowhere.
        """
        if self._listing is None:
            self._listing = Listing([], [], [])
            self._walk("", frozenset())
            for names in self._listing:
                names.sort()
        return self._listing

    def _walk(self, prefix: str, above: frozenset[tuple[int, int]]) -> None:
        """List the folder `prefix`, unless a link inside it leads back to it: `above` are the folders that hold it."""
        assert self._listing is not None
        folder = self.path / prefix
        try:
            status = folder.stat()
            with os.scandir(folder) as entries:
                found = [(entry.name, entry.is_dir(), entry.is_file(), entry.is_symlink()) for entry in entries]
        except OSError as error:
            raise DataError(f"the folder {folder} cannot be read ({error.strerror})") from error
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return
        for name, is_folder, is_file, is_link in found:
            path = prefix + name
            if is_hidden(name):
                continue
            if is_folder:
                self._listing.folders.append(path)
                self._walk(f"{path}/", above | {identity})
            elif is_file:
                self._listing.files.append(path)
            elif is_link and not (self.path / path).exists():
                raise DataError(f"{self.path / path} is a link to a file that does not exist: mend or remove it")
            else:
                self._listing.irregular.append(path)


class Zip:
    """The members of a zip archive.

    Raises:
        DataError: the archive cannot be read, or is damaged.
    """

    def __init__(self, path: Path):
        self.path = path.resolve()
        file = open_regular(self.path)
        try:
            self._archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
            what = disguise(file) or f"not a complete zip archive ({error})"
            file.close()
            raise DataError(f"{self.path} is {what}: download it again") from error
        self._members = {info.filename: info for info in self._archive.infolist() if not info.is_dir()}

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        return sorted(name for name in self._members if not is_hidden(name))

    def read(self, name: str) -> bytes:
        where = f"{name} in {self}"
        info = self._members[name]
        if info.flag_bits & 1:
            raise DataError(f"{where} is encrypted: unpack the archive, and name the folder")
        try:
            with self._archive.open(info) as file:  # zipfile locks the shared handle: threads may read at once
                return read_bounded(file, where, info.file_size)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError) as error:
            raise DataError(f"{where} is damaged, or packed in a way that cannot be read: {error}") from error

    def fingerprint(self, names: Sequence[str]) -> list[Any]:
        # The archive's own checksums, which are checked when a member is read.
        return [[name, self._members[name].file_size, self._members[name].CRC] for name in names]


def open_files(path: Path) -> Files:
    """The folder or zip archive at `path`."""
    return Folder(path) if path.is_dir() else Zip(path)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file; a pipe, which would be waited for, a socket or a device is not opened.

    Raises:
        DataError: it is none, or cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        file = os.fdopen(descriptor, "rb")  # refuses a folder
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DataError(f"{path} must be a regular file; got a pipe, a socket or a device")
    return file


def read_text(path: Path) -> str:
    """The text of a small file, such as a list of classes.

    Raises:
        DataError: it is no text, or cannot be read.
    """
    with open_regular(path) as file:
        if what := disguise(file):
            raise DataError(f"{path} is {what}: download it again")
        try:
            return read_bounded(file, str(path)).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} must be text in UTF-8; got {error}") from error


def disguise(file: BinaryIO) -> str | None:
    """`disguise_of` the beginning of a file, which is then at its beginning again."""
    file.seek(0)
    start = file.read(512)
    file.seek(0)
    return disguise_of(start)


def disguise_of(data: bytes) -> str | None:
    """What is often saved under the name of data when a download has failed; None: it is none of it."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself"
    return "an empty file" if not start else None


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not the user's: its name, or one above it, begins with a dot or is a system's own."""
    return any(part.startswith(".") or part.lower() in SYSTEM_NAMES for part in PurePosixPath(name).parts)


def is_image(name: str) -> bool:
    """Whether a file is an image by its suffix, and the user's."""
    return not is_hidden(name) and PurePosixPath(name).suffix.lower() in SUFFIXES


def read_bounded(file: Any, what: str, size: int = 0) -> bytes:
    """All bytes of an open file, which says itself that it has `size`.

    Raises:
        DataError: it, `what`, has more than `MAX_BYTES`; then at most as many were read.
    """
    data: bytes = b"" if size > MAX_BYTES else file.read(MAX_BYTES + 1)
    if max(size, len(data)) > MAX_BYTES:
        raise DataError(f"{what} must have at most {MAX_BYTES:,} bytes; got {max(size, len(data)):,}")
    return data
