"""Widths of the columns of a terminal's table: `0.51 ± 0.02 ~` stays in one line, names and sentences are broken."""

from __future__ import annotations

from collections.abc import Collection

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table

NARROW = 12  # characters that a column of names or sentences has at least, and within which no word of a heading breaks
BOUNDLESS = 10_000  # characters: wider than any table


def fit(table: Table, console: Console, whole: Collection[int]) -> bool:
    """Set the widths of a table that is wider than the console: columns of names and sentences are broken into lines.

    Args:
        table: with its rows.
        whole: places of the columns whose cells keep their lines; their headings may be broken.

    Returns:
        Whether there is room for that. If not, the table is as it was.
    """

    options = console.options.update(width=BOUNDLESS)

    def width(cell: RenderableType) -> int:
        return Measurement.get(console, options, cell).maximum

    cells = [max(map(width, column.cells), default=1) for column in table.columns]
    wanted = [max(1, of_cells, width(column.header)) for of_cells, column in zip(cells, table.columns, strict=True)]
    words = [min(NARROW, Measurement.get(console, options, column.header).minimum) for column in table.columns]
    least = [max(cells[at], words[at]) if at in whole else min(NARROW, wanted[at]) for at in range(len(wanted))]
    room = console.width - (width(table) - sum(wanted))  # without lines and padding
    if sum(wanted) <= room:
        return True
    if sum(least) > room:
        return False
    widths = list(least)
    for _ in range(room - sum(least)):
        widths[max(range(len(widths)), key=lambda at: wanted[at] - widths[at])] += 1
    for column, chosen in zip(table.columns, widths, strict=True):
        column.width = chosen
    return True
