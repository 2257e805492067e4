"""metrics.jsonl: one line of JSON per logged iteration, `{"iteration": 100, "train/loss": 0.31, ...}`.

Every run writes it, whatever its trackers. A process may be killed in the middle of a line: such a half line is
dropped when the file is next opened for writing, and readers skip it.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from metarun.files import write_text
from metarun.run_files import read_bytes

MOST_BYTES = 1 << 32  # of a file


class MetricsFile:
    """Appends to a run's metrics.jsonl.

    Args:
        path: the file; created, or continued after its last complete line.

    Raises:
        OSError: the file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            drop_half_line(path)
        self._file = open_unbuffered(path)

    def log(self, values: Mapping[str, SupportsFloat], iteration: int) -> None:
        """Append one line; NaN and infinity become null. The operating system has the line when this returns.

        Raises:
            OSError: the disk is full; the file then ends with the previous line.
        """
        row = {"iteration": iteration, **{key: finite(float(value)) for key, value in values.items()}}
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        length = os.fstat(self._file.fileno()).st_size
        if self._file.write(line) != len(line):
            os.ftruncate(self._file.fileno(), length)
            raise OSError(errno.ENOSPC, "no space for a line of metrics", str(self.path))

    def cut(self, iteration: int) -> None:
        """Drop the lines after `iteration`, for a run that resumes from a checkpoint taken there.

        The file is replaced atomically: a reader sees the old or the new one.

        Raises:
            ValueError: a line that is not the last is damaged.
        """
        kept = [row for row in read_metrics(self.path) if row["iteration"] <= iteration]
        self.close()
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in kept)
        try:
            write_text(self.path, text)
        finally:
            self._file = open_unbuffered(self.path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, in the order written, without a half-written last line.

    Raises:
        OSError: it is missing, is no regular file, or cannot be read.
        ValueError: a line before the last is not a JSON object of numbers with an iteration.
    """
    lines = read_bytes(path, MOST_BYTES).splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        row = parsed_row(line)
        if row is None:
            if number == len(lines):
                break
            raise ValueError(
                f"{path}, line {number} must be a JSON object of numbers with an iteration; got {line[:80]!r}"
            )
        rows.append(row)
    return rows


def parsed_row(line: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None where it is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not is_number(row.get("iteration")):
        return None
    return row if all(value is None or is_number(value) for value in row.values()) else None


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number that fits a float."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def finite(value: float) -> float | None:
    """A number that JSON can hold; None for NaN and infinity."""
    return value if math.isfinite(value) else None


def drop_half_line(path: Path) -> None:
    """Cut off everything after the last newline."""
    with path.open("rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def open_unbuffered(path: Path) -> Any:
    """A file on which each `write` is one system call that appends."""
    return path.open("ab", buffering=0)
