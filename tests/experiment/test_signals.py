"""Signals wait for a safe point."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import weakref

import pytest

from metarun.experiment.signals import no_interrupt_is_lost, signals


def test_a_signal_is_kept_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with signals() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_terminal_that_closes_stops_a_run_too_unless_that_is_ignored():
    with signals() as received:
        os.kill(os.getpid(), signal.SIGHUP)
        assert received == [signal.SIGHUP]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_goes_to_a_terminal_that_closed_is_dropped():
    controller, terminal = os.openpty()
    stdout = os.dup(1)
    try:
        os.dup2(terminal, 1)
        os.close(terminal)
        with signals():
            os.close(controller)
            with pytest.raises(OSError):
                os.write(1, b"lost")
            os.kill(os.getpid(), signal.SIGHUP)
            assert os.write(1, b"dropped") == 7
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def test_a_second_interrupt_stops_at_once():
    with pytest.raises(KeyboardInterrupt), signals() as received:
        os.kill(os.getpid(), signal.SIGINT)
        assert received == [signal.SIGINT]
        os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_there_is_nothing_to_hear():
    heard = []

    def work():
        with signals() as received:
            heard.append(received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [[]]


class Thing:
    pass


def interrupt(_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupt_that_python_drops_comes_again_and_prints_nothing(capfd):
    thing = Thing()
    reference = weakref.ref(thing, interrupt)
    with no_interrupt_is_lost():
        del thing  # calls it, where no exception can be raised
        assert reference() is None
        with pytest.raises(KeyboardInterrupt):
            time.sleep(20)
    assert capfd.readouterr().err == ""


def test_other_dropped_exceptions_are_shown_as_ever(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    thing = Thing()
    reference = weakref.ref(thing, lambda _: 1 / 0)
    with no_interrupt_is_lost():
        del thing
    assert reference() is None and [entry.exc_type for entry in seen] == [ZeroDivisionError]
