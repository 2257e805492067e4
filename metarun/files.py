"""Files that are written completely or not at all, and JSON without NaN."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

# Temporary files of processes that were killed, also of earlier versions; nothing that a user could call so.
LEFTOVER = re.compile(
    r"\.([\w.+-]+\.(png|pdf|json|jsonl|npz|yaml|md|tex|html|safetensors|state)|hydra)\.[a-z0-9_]{8}", re.ASCII
)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed left half-written in a folder that nobody writes to now."""
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def without_nan(value: Any) -> Any:
    """Replace every number that JSON does not have (NaN, infinity) in a structure by None."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Create or replace a file completely or not at all; its mode is that of any new file, by the user's umask.

    Args:
        path: the file. Missing folders are created.
        write: writes the contents to an open temporary file in the same folder, which then takes the file's name.

    Raises:
        OSError: it cannot be written, or something that is no regular file (a device, a folder) has that name.
    """
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path} is not a regular file, and is not replaced")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:  # unlike mkstemp's, which only its owner may read
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; bytes of a file's name that are no text become escapes, which JSON reads."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity become null."""
    text = json.dumps(without_nan(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(path, text)
