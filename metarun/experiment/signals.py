"""Signals wait for a safe point."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def signals() -> Iterator[list[int]]:
    """Inside, SIGINT and SIGTERM are kept in the list for the next safe point; a second SIGINT stops at once."""
    received_signals: list[int] = []

    def receive(signum: int, _frame: object) -> None:
        if received_signals and signum == signal.SIGINT:
            raise KeyboardInterrupt
        received_signals.append(signum)

    try:
        before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: some launchers' workers; their parent handles signals
        yield received_signals
        return
    try:
        yield received_signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
