"""A folder belongs to one process for as long as that works there: a run's, and a multirun's.

The lock is the kernel's, on `.lock` in the folder: it ends with the process that holds it, however that ends. The file
stays, and says who holds the folder, or held it last. Where a file system has no locks (some network file systems),
this is said once, and the run goes on without.

`flock` directly: a file lock of a package falls back to one that a killed process leaves for ever.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import stat
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from metarun.experiment.errors import ConfigError
from metarun.plain_text import say

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
OURS = (LOCK, ".hydra", "metarun.log", "metrics.jsonl", "multirun.yaml")  # what is written before a run can be refused
HELD = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)
ATTEMPTS = 10  # where a command that is refused removes the folder while another one takes it
_claims: weakref.WeakSet[Claim] = weakref.WeakSet()
_said: set[str] = set()


class FolderError(ConfigError):
    """A folder cannot be used, and nothing may be written there; the message says why."""


class Claim:
    """A folder that this process holds; see `claim`.

    Args:
        folder: the folder.
        made: the folders that did not exist before, the outermost first.
        before: names of what was in the folder before.
        descriptor: of the locked file; None where the file system has no locks.
    """

    def __init__(self, folder: Path, made: list[Path], before: frozenset[str], descriptor: int | None) -> None:
        self.folder, self.made, self.before, self.descriptor = folder, made, before, descriptor
        _claims.add(self)

    def release(self) -> None:
        """Let others have the folder; a second call does nothing."""
        if self.descriptor is not None:
            with suppress(OSError):
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)
            self.forget()

    def forget(self) -> None:
        """Close the lock file; the lock lasts as long as another process shares it."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def withdraw(self) -> None:
        """Remove what this command made, and release: folders only where nothing else came into them."""
        remove_ours(self.folder, self.before)
        for folder in reversed(self.made):
            with suppress(OSError):
                folder.rmdir()
        self.release()


def claim(folder: Path, key: str) -> Claim:
    """Make a folder where there is none, and hold it until it is released or the process ends.

    Args:
        folder: the folder.
        key: the setting that names it, for messages: `hydra.run.dir`.

    Raises:
        FolderError: another process holds it (the message says which), or it cannot be made or written.
    """
    folder = folder.absolute()
    try:
        for _ in range(ATTEMPTS):
            made = make_folders(folder)
            before = frozenset(os.listdir(folder))
            descriptor = open_lock(folder / LOCK)
            if not is_locked(descriptor, folder):
                return Claim(folder, made, before, None)
            if is_current(descriptor, folder / LOCK):
                write_holder(descriptor)
                return Claim(folder, made, before, descriptor)
            os.close(descriptor)
    except OSError as error:
        raise unusable(folder, key, error) from error
    raise FolderError(f"{key}={folder} is removed by another process again and again")


def unusable(folder: Path, key: str, error: OSError) -> FolderError:
    """The refusal of a folder with which the file system fails."""
    return FolderError(f"{key} must be a folder that can be written to ({reason(error)}); got {folder}")


def reason(error: OSError) -> str:
    """`Permission denied: /path`, without the number."""
    words = error.strerror or str(error) or type(error).__name__
    return f"{words}: {error.filename}" if error.filename else words


def make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it that are missing, the outermost first.

    Returns:
        Those that this call made; one that another process made meanwhile is its own.
    """
    missing = []
    for place in (folder, *folder.parents):
        if os.path.lexists(place):
            break
        missing.append(place)
    made = []
    try:
        for place in reversed(missing):
            with suppress(FileExistsError):
                place.mkdir()
                made.append(place)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "there is a file in its place", str(folder))
    except OSError:
        for place in reversed(made):
            with suppress(OSError):
                place.rmdir()
        raise
    return made


def remove_ours(folder: Path, keep: frozenset[str] = frozenset()) -> None:
    """Remove what metarun writes into a folder before a run can be refused, without the names to keep."""
    for name in OURS:
        if name not in keep:
            with suppress(OSError):
                shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


# ------------------------------------------------------------------------------------------------------ the lock


def open_lock(path: Path) -> int:
    """A descriptor of the lock file, which is created where it is missing; never of a link, a pipe or a device."""
    flags = os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, os.O_RDWR | flags, 0o666)
    except PermissionError:  # another user's, in a folder that both write: it can be locked, not written
        if not path.exists():
            raise
        descriptor = os.open(path, os.O_RDONLY | flags & ~os.O_CREAT)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it must be a regular file", str(path))
    return descriptor


def is_locked(descriptor: int, folder: Path) -> bool:
    """Lock an open file; False (and closed) where the file system has no locks.

    Raises:
        FolderError: another process has the lock.
    """
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "no flock on this system")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        text = os.pread(descriptor, 1000, 0) if error.errno in HELD else b""
        os.close(descriptor)
        if error.errno in HELD:
            raise FolderError(
                f"{folder} is in use by {holder(text)}. Wait until it ends, or name another folder"
            ) from None
        say_once(f"warning: {folder} cannot be locked ({reason(error)}): see that no second process works there")
        return False
    return True


def is_current(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that name: its holder may have removed it before it let go."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def write_holder(descriptor: int) -> None:
    """Say in the lock file who holds it."""
    content = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with suppress(OSError):  # a full disk, or another user's file: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(content) + "\n").encode(), 0)


def holder(text: bytes) -> str:
    """`process 12 on HOST since 2026-11-21 10:00:00`, from the content of a lock file."""
    try:
        content: Any = json.loads(text)
        return f"process {int(content['pid'])} on {content['host']!s:.100} since {content['since']!s:.19}"
    except (ValueError, TypeError, KeyError):
        return "another process"


def say_once(message: str) -> None:
    """Print a warning, the first time in this process."""
    if message not in _said:
        _said.add(message)
        say(message)


def _forget_in_child() -> None:
    """A forked process shares its parent's locks, and would keep them when the parent is killed."""
    for own in list(_claims):
        own.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
