"""Signals wait for a safe point."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from metarun.experiment.signals import signals


def test_a_signal_is_kept_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with signals() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


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
