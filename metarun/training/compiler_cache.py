"""Where torch's compiler keeps its files: a folder that can be written, and no broken file in it.

No torch here: the folder must be right before torch is imported, which dies of one that it cannot make.
"""

from __future__ import annotations

import atexit
import getpass
import os
import re
import shutil
import struct
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
STILL_WRITTEN_SECONDS = 60  # a file that is younger may be another process's, which is writing it
LOADERS_WORDS = re.compile(r"(/[^\n:]+\.so): ")  # how the dynamic loader begins to tell of a file


@cache
def cache_problem() -> str | None:
    """Why torch's compiler cannot keep files where it wants to; None: it can.

    Torch makes the folder as soon as an optimizer is built, compiled or not: where it cannot, a temporary folder takes
    its place for this process.
    """
    problem = _folder_problem()
    if problem is not None:
        os.environ[VARIABLE] = temporary = tempfile.mkdtemp(prefix="metarun-inductor-")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return problem


def _folder_problem() -> str | None:
    named = os.environ.get(VARIABLE)
    try:
        folder = Path(named) if named is not None else default_folder()
        if named is not None:
            folder.mkdir(parents=True, exist_ok=True)  # as torch would
        elif not folder.exists():
            return None
        if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return None
        why = "no folder that can be written"
    except OSError as error:
        folder, why = Path(named or tempfile.gettempdir()), error.strerror or str(error)
    return f"{VARIABLE}={folder}: {why}" if named is not None else f"{folder}: {why}; {VARIABLE} names another folder"


def default_folder() -> Path:
    """Torch's own, where the environment names none."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ModuleNotFoundError):
        user = f"uid_{os.getuid()}"
    return Path(tempfile.gettempdir()) / ("torchinductor_" + re.sub(r'[\\/:*?"<>|]', "_", user))


def remove_broken(folder: Path | None = None) -> list[Path]:
    """Remove compiled files that are not whole: a compiler that was killed leaves them, torch takes each for done.

    To load one that breaks off in the middle ends the process (SIGBUS), so it is found here and not by trying.

    Returns:
        The files that were removed.
    """
    folder = folder or Path(os.environ.get(VARIABLE) or default_folder())
    before = time.time() - STILL_WRITTEN_SECONDS
    broken = [file for file in folder.glob("*/*.so") if not is_whole(file) and file.stat().st_mtime < before]
    for file in broken:
        file.unlink(missing_ok=True)
    return broken


def remove_named(error: BaseException) -> Path | None:
    """Remove the broken compiled file that an error tells of; None: it tells of none."""
    folder = Path(os.environ.get(VARIABLE) or default_folder())
    for name in LOADERS_WORDS.findall(str(error)):
        file = Path(name)
        if file.is_file() and file.is_relative_to(folder.absolute()) and not is_whole(file):
            file.unlink(missing_ok=True)
            return file
    return None


def is_whole(file: Path) -> bool:
    """Whether a shared library is complete: an ELF file ends with the table of sections that its head announces."""
    try:
        with file.open("rb") as opened:
            head, size = opened.read(64), os.fstat(opened.fileno()).st_size
    except OSError:
        return True  # gone meanwhile, or not ours to judge
    if head[:5] != b"\x7fELF\x02":  # of 64 bits
        return size > 0 and sys.platform != "linux"
    if len(head) < 64:
        return False
    order = "<" if head[5] == 1 else ">"
    (offset,) = struct.unpack_from(f"{order}Q", head, 40)
    entry, entries = struct.unpack_from(f"{order}HH", head, 58)
    return size >= offset + entry * entries
