"""What is said about data while it is read: lines on stderr, each once a process, and a progress bar."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from metarun.plain_text import say

_said: set[str] = set()


def tell(text: str) -> None:
    """Print a line on stderr, unless this process has printed it before or is not the first that torchrun started."""
    if text in _said or os.environ.get("RANK", "0") != "0":
        return
    _said.add(text)
    say(text)


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 file`, `3 files`, `2 classes`."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def progress_bar() -> Progress:
    """A bar on stderr that vanishes when done; silent where stderr is not a terminal."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
