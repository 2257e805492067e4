"""Columns that are to stay whole stay so, as long as there is room."""

from __future__ import annotations

import io

import pytest
from rich import box
from rich.table import Table

from metarun.report.console import PlainConsole
from metarun.report.widths import fit

NAME, RESULT = "a name of several words that may be broken", "0.512 ± 0.023 ~"


def shown(width: int, whole: tuple[int, ...]) -> tuple[bool, str]:
    """Whether a table of a name and a result fits, and what is printed of it."""
    console = PlainConsole(file=io.StringIO(), width=width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run")
    table.add_column("a heading of several words", overflow="fold")
    table.add_row(NAME, RESULT)
    fits = fit(table, console, whole)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return fits, console.file.getvalue()


@pytest.mark.parametrize("width", [34, 50, 60])
def test_a_result_stays_whole_and_its_heading_and_the_name_are_broken(width):
    fits, text = shown(width, (1,))
    assert fits and RESULT in text and NAME not in text
    assert max(map(len, text.splitlines())) == width  # all the room is used
    assert "several" in text and "heading" in text  # no word of the heading is broken


def test_a_table_that_fits_is_left_as_it_is():
    fits, text = shown(100, (1,))
    assert fits and NAME in text and "a heading of several words" in text


def test_without_room_the_caller_is_told():
    assert shown(20, (1,))[0] is False
