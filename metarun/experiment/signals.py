"""Signals wait for a safe point."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

RETRY_SECONDS = 0.1


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


@contextmanager
def no_interrupt_is_lost() -> Iterator[None]:
    """Inside, a KeyboardInterrupt that Python drops (in a weakref's callback, in `__del__`) comes again."""
    before = sys.unraisablehook

    def receive(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            main = threading.main_thread().ident
            threading.Timer(RETRY_SECONDS, signal.pthread_kill, (main, signal.SIGINT)).start()
        else:
            before(unraisable)

    sys.unraisablehook = receive
    try:
        yield
    finally:
        sys.unraisablehook = before
