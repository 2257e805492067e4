"""Signals wait for a safe point."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

RETRY_SECONDS = 0.1
STREAMS = (0, 1, 2)


@contextmanager
def signals() -> Iterator[list[int]]:
    """Inside, SIGINT, SIGTERM and SIGHUP are kept in the list for the next safe point; a second SIGINT stops at once.

    SIGHUP is a terminal that closed: what is written to it from then on is dropped. Where it is ignored (nohup) it
    stays ignored.
    """
    received_signals: list[int] = []
    terminals = [number for number in STREAMS if is_terminal(number)]

    def receive(signum: int, _frame: object) -> None:
        if received_signals and signum == signal.SIGINT:
            raise KeyboardInterrupt
        received_signals.append(signum)
        if signum == signal.SIGHUP:
            drop_closed(terminals)

    try:
        before = {number: signal.signal(number, receive) for number in stopping_signals()}
    except ValueError:  # not the main thread: some launchers' workers; their parent handles signals
        yield received_signals
        return
    try:
        yield received_signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopping_signals() -> list[signal.Signals]:
    """Those that end a run: without SIGHUP where the process was told to ignore it."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM] + ([] if ignored else [signal.SIGHUP])


def is_terminal(stream: int) -> bool:
    """Whether a stream is a terminal that is there; False for one that closed."""
    try:
        return os.isatty(stream)
    except OSError:
        return False


def drop_closed(terminals: list[int]) -> None:
    """Have streams to a terminal that closed lead nowhere: writing to them would fail, and a result with it."""
    for stream in terminals:
        if not is_terminal(stream):
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, stream)
            os.close(nowhere)


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
