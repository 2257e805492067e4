"""What comes after a run's numbers: pictures, comparison, trackers. Each can fail without the others, and the run."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from metarun.plain_text import described, say

T = TypeVar("T")


class Attempts:
    """Does what may fail.

    Args:
        folder: the run's.

    Attributes:
        failed: `NAME: why` of each that did.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failed: list[str] = []

    def __call__(self, name: str, action: Callable[[], T]) -> T | None:
        """Do something, and return what it returns; None where it fails, which is said in a line, and in the log."""
        try:
            return action()
        except Exception as error:
            why = described(error)
            self.failed.append(f"{name}: {why}")
            say(f"warning: {name} failed ({why}); the run's numbers are kept")
            append_to_log(self.folder, "".join(traceback.format_exception(error)))
            return None


def append_to_log(folder: Path, text: str) -> None:
    """Append to the run's log (several runs may share a logger), as far as the disk takes it."""
    with suppress(OSError), (folder / "metarun.log").open("a", encoding="utf-8", errors="backslashreplace") as log:
        log.write(text)
