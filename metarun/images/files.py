"""Where image files lie: a folder or a zip archive, read in the same way."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from metarun.tasks import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


class Files(Protocol):
    """A folder or an archive: names with '/', bytes by name, and a fingerprint that changes with them."""

    def names(self) -> list[str]: ...
    def read(self, name: str) -> bytes: ...
    def fingerprint(self) -> list[Any]: ...


class Folder:
    """The files below a folder. The fingerprint holds every file's name, size and time of change."""

    def __init__(self, path: Path):
        self.path = path.resolve()

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        return [name for name, _, _ in self._walk()]

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def fingerprint(self) -> list[Any]:
        return [str(self.path), *self._walk()]

    def _walk(self) -> list[tuple[str, int, int]]:
        files, folders = [], [""]
        while folders:
            prefix = folders.pop()
            with os.scandir(self.path / prefix) as entries:
                for entry in entries:
                    if entry.is_dir():
                        folders.append(f"{prefix}{entry.name}/")
                    else:
                        stat = entry.stat()
                        files.append((prefix + entry.name, stat.st_size, stat.st_mtime_ns))
        return sorted(files)


class Zip:
    """The members of a zip archive. The fingerprint is the archive's path, size and time of change.

    Raises:
        DataError: the archive is damaged.
    """

    def __init__(self, path: Path):
        self.path = path.resolve()
        try:
            self._archive = zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            raise DataError(f"{self.path} is not a complete zip archive ({error}): download it again") from error

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        return sorted(name for name in self._archive.namelist() if not name.endswith("/"))

    def read(self, name: str) -> bytes:
        return self._archive.read(name)  # zipfile locks the shared handle: threads may read at once

    def fingerprint(self) -> list[Any]:
        stat = self.path.stat()
        return [str(self.path), stat.st_size, stat.st_mtime_ns]


def open_files(path: Path) -> Files:
    """The folder or zip archive at `path`."""
    return Folder(path) if path.is_dir() else Zip(path)


def is_image(name: str) -> bool:
    """Whether a file is an image by its suffix, and not a hidden file that an operating system left beside one."""
    parts = PurePosixPath(name).parts
    hidden = parts[-1].startswith(".") or "__MACOSX" in parts
    return not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES
