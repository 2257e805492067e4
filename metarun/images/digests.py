"""Digests of files' contents, remembered, so that what has not changed is read once.

The memo lies in the cache folder, one file for each folder of data. It knows a file by size, inode and times of change;
the time of its last status change (`ctime`) cannot be set back, so a changed file is read again whatever its date says.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from metarun.files import write_text
from metarun.images.cache import cache_folder
from metarun.images.notices import progress_bar
from metarun.tasks import DataError

SETTLED = 2.0  # seconds: a file that changed later may change again without a new time


def content_digests(root: Path, names: Sequence[str], opened: Callable[[Path], BufferedReader]) -> dict[str, str]:
    """The digest of each file `root`/`name`.

    Args:
        root: an absolute path.
        names: paths below it.
        opened: opens a file, or raises DataError.

    Raises:
        DataError: a file cannot be read.
    """
    memo = cache_folder() / "digests" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:20]}.json"
    known, now = _read(memo), time.time()
    states = {name: _state(root / name) for name in names}
    digests = {name: known[name][1] for name, state in states.items() if name in known and known[name][0] == state}
    unknown = [name for name in names if name not in digests]
    if unknown:
        digests |= dict(zip(unknown, _read_all([root / name for name in unknown], opened), strict=True))
        latest = int((now - SETTLED) * 1e9)
        entries = {name: [states[name], digests[name]] for name in names if max(states[name][2:]) < latest}
        with suppress(OSError):  # not remembered, then: a cache that somebody else filled may be read-only
            write_text(memo, json.dumps(known | entries))
    return {name: digests[name] for name in names}


def _read(memo: Path) -> dict[str, Any]:
    """What the memo holds; nothing where it is missing or damaged, as all can be read again."""
    try:
        entries = json.loads(memo.read_text())
        return {name: entry for name, entry in entries.items() if len(entry) == 2 and isinstance(entry[1], str)}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _state(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _read_all(paths: list[Path], opened: Callable[[Path], BufferedReader]) -> list[str]:
    def digest(path: Path) -> str:
        with opened(path) as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, progress_bar() as bar:
        return list(bar.track(pool.map(digest, paths), total=len(paths), description="looking for changed files"))
