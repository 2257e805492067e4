"""What a paper prints stands only beside what it is of."""

from __future__ import annotations

import pytest

from scripts.results.published import published
from scripts.results.records import Published

PAPER = [
    {"source": "A", "ways": 5, "shots": 1, "value": 0.9, "ci95": 0.1, "table": "table 1"},
    {"source": "B", "ways": 5, "shots": 5, "value": 0.95, "status": "quoted from memory, not verified"},
]


def config(shots: int = 1, partition: str = "vinyals", **algo) -> dict:
    return {"data": {"ways": 5, "shots": shots, "partition": partition}, "algo": algo}


def test_the_figure_of_the_ways_and_shots_is_taken():
    assert published(PAPER, config()) == Published(0.9, 0.1, "A", "table 1")


@pytest.mark.parametrize(
    "other", [config(shots=5), config(shots=10), config(partition="small"), config(fce=True)], ids=str
)
def test_what_was_not_read_or_is_of_something_else_is_not(other):
    assert published(PAPER, other) is None


def test_without_figures_there_is_none():
    assert published(None, config()) is None
