"""The benchmark's processes: they compute only when asked, and say why they fail, however they were started."""

from __future__ import annotations

import pytest

from scripts.benchmark import worker
from scripts.benchmark.sides import ROWS
from scripts.benchmark.worker import Worker, timed, work


@pytest.fixture
def start(monkeypatch):
    """Starts a worker. Never by a fork: this process has computed, and a fork would lack its threads."""
    monkeypatch.setattr(worker, "START_METHOD", "spawn")
    workers = []

    def start(function, *arguments):
        workers.append(Worker(1, function, *arguments))
        return workers[-1]

    yield start
    for each in workers:
        each.end()


@pytest.mark.slow
def test_it_yields_what_a_side_computes_and_then_its_times(start, tmp_path):
    row = ROWS["sinusoid-1"]._replace(tasks=2)
    one = start(work, row, "eager", 0.01, None, tmp_path)
    first, *rounds = (one.next() for _ in range(3))
    assert len(first["losses"]) == 2 and len(first["gradient"]) == 1761 and first["first_call"] > 0
    for measured in rounds:
        assert len(measured["times"]) >= 3 and measured["peak_mb"] > measured["growth_mb"] >= 0


@pytest.mark.slow
def test_a_process_that_fails_says_why(start, tmp_path):
    one = start(work, None, "eager", 0.01, None, tmp_path)
    with pytest.raises(RuntimeError, match="'NoneType' object has no attribute 'sampled'"):
        one.next()
    with pytest.raises(RuntimeError, match="ended without a message"):
        one.next()


def test_repetitions_reach_the_minimum_and_the_seconds():
    assert len(timed(lambda: None, 0.0, 5)) == 5
    assert sum(timed(lambda: None, 0.01, 1)) >= 0.01
