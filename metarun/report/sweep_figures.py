"""Figures of a sweep: sensitivity to the inner learning rate, bars of means over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from metarun.report.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    TEXT,
    VERMILION,
    axis_name,
    label,
    new_figure,
    plain,
    scale_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis


Seeds = Sequence[Sequence[float]]  # the value of each seed, position by position
LOOKS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"), (INK, "v"), (SKY, "P"), (VERMILION, "X"))
HEIGHT = 180  # points of a panel's height, roughly
CROSS = 8  # of these between the crosses of two learners
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "--")  # of bars, as many as LOOKS


class Line(NamedTuple):
    """A learner over a range of x.

    Attributes:
        name: in the legend.
        x: ascending.
        seeds: at each x the value of each seed; None for one that did not complete.
        published: at each x the published value; None if there is none.
    """

    name: str
    x: Sequence[float]
    seeds: Sequence[Sequence[float | None]]
    published: Sequence[float | None] = ()


def sensitivity(panels: Mapping[str, Sequence[Line]], metric: str, path: Path) -> None:
    """Draw a metric against the inner learning rate (log scale): mean over seeds and a band from worst to best.

    A line's published values are hollow markers of its colour. Where a seed did not complete, a cross of the learner's
    colour is at the upper edge, above those of learners before it, and the line is the mean of the other seeds.

    Args:
        panels: title to lines; panels share both axes.
        metric: its name; accuracies between 0 and 1 are shown in percent, all other metrics on a log scale.
        path: the PNG or PDF, written complete or not at all.
    """
    columns = min(3, len(panels))
    rows = ceil(len(panels) / columns)
    with new_figure(path, (4.2 * columns + 0.6, 3.5 * rows + 0.5)) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for axes, (title, lines) in zip(grid.flat, panels.items(), strict=False):
            incomplete = [line for line in lines if any(None in values for values in line.seeds)]
            for line, (color, marker) in zip(lines, cycle(LOOKS), strict=False):
                draw_line(axes, line, color, marker, scale_of(metric))
                if line in incomplete:
                    draw_crosses(axes, line, color, incomplete.index(line))
            log_axis(axes.xaxis)
            if scale_of(metric) == 1:
                log_axis(axes.yaxis)
            label(axes, "inner learning rate", axis_name(metric) if axes in grid[:, 0] else "")
            axes.set_title(plain(title), fontsize=10, pad=6 + CROSS * len(incomplete))
        draw_legend(grid[0, 0], panels, 3 * columns)


def draw_legend(axes: Axes, panels: Mapping[str, Sequence[Line]], columns: int) -> None:
    """The legend of `sensitivity`, below it; of what not every figure has, it has what any panel has."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles, names = axes.get_legend_handles_labels()
    entries = dict(zip(names, handles, strict=True))
    lines = [line for panel in panels.values() for line in panel]
    seeds = [values for line in lines for values in line.seeds]
    if any(len(values) > 1 for values in seeds):
        entries["worst to best seed"] = Patch(color=INK, alpha=0.2, linewidth=0)
    if any(None in values for values in seeds):
        entries["a seed did not complete"] = Line2D([], [], linestyle="none", marker="x", color=INK)
    if any(value is not None for line in lines for value in line.published):
        entries["published"] = Line2D([], [], linestyle="none", marker="o", color=INK, markerfacecolor="none")
    handles, names = list(entries.values()), list(entries)
    axes.figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=TEXT)


def log_axis(axis: Axis) -> None:
    """Make an axis logarithmic, and write its numbers as `0.01` or `1e6`."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, value: float, place: int | None = None) -> str:
            written = f"{value:g}" if 1e-4 <= value < 1e4 else f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
            return written if super().__call__(value, place) else ""

    (axis.axes.set_xscale if axis is axis.axes.xaxis else axis.axes.set_yscale)("log")
    axis.set_major_formatter(Plain())
    axis.set_minor_formatter(Plain(minor_thresholds=(1, 0.4)))


def draw_crosses(axes: Axes, line: Line, color: str, place: int) -> None:
    """Crosses of `sensitivity` at the upper edge; those of several learners at a rate are above each other."""
    incomplete = [x for x, values in zip(line.x, line.seeds, strict=True) if None in values]
    heights = [1 + CROSS * place / HEIGHT] * len(incomplete)
    edge = axes.get_xaxis_transform()  # of which the x axis takes its range too
    axes.plot(incomplete, heights, "x", color=color, transform=edge, clip_on=False, zorder=5)


def draw_line(axes: Axes, line: Line, color: str, marker: str, scale: float) -> None:
    """One line of `sensitivity`; an x at which no seed completed is left out."""
    points = [(x, [scale * v for v in values if v is not None]) for x, values in zip(line.x, line.seeds, strict=True)]
    points = [(x, values) for x, values in points if values]
    x = [at for at, _ in points]
    axes.plot(
        x, [sum(v) / len(v) for _, v in points], color=color, marker=marker, markersize=4.5, label=plain(line.name)
    )
    axes.fill_between(x, [min(v) for _, v in points], [max(v) for _, v in points], color=color, alpha=0.2, linewidth=0)
    published = [(at, scale * v) for at, v in zip(line.x, line.published, strict=False) if v is not None]
    if published:
        axes.plot(*zip(*published, strict=True), linestyle="none", color=color, marker=marker, markerfacecolor="none")


def bars(panels: Mapping[str, Mapping[str, Seeds]], names: Sequence[str], y_name: str, path: Path) -> None:
    """Draw bars of means over seeds, with a dot for each seed.

    Args:
        panels: title to the groups of bars, by name; a group has as many positions as `names`. A position without a
            value has no bar.
        names: of the positions on the x axis.
        y_name: of the y axis.
        path: the PNG or PDF, written complete or not at all.
    """
    inches = max(4.2, 0.35 * len(names) * max(map(len, panels.values())))
    with new_figure(path, (inches * len(panels) + 0.6, 3.6)) as figure:
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)
        for axes, (title, groups) in zip(grid.flat, panels.items(), strict=True):
            width = 0.8 / len(groups)
            looks = zip(groups.items(), cycle(zip(LOOKS, HATCHES, strict=True)), strict=False)
            for at, ((name, positions), ((color, _), hatch)) in enumerate(looks):
                x = [place - 0.4 + width * (at + 0.5) for place in range(len(names))]
                heights = [sum(values) / len(values) if values else float("nan") for values in positions]
                axes.bar(x, heights, 0.92 * width, color=color, hatch=hatch, edgecolor="white", label=plain(name))
                for place, values in zip(x, positions, strict=True):
                    axes.plot([place] * len(values), values, ".", color=INK, markersize=3)
            label(axes, "", y_name if axes is grid[0, 0] else "")
            axes.set_xticks(range(len(names)), list(map(plain, names)))
            axes.set_title(plain(title), fontsize=10)
        draw_names(grid[0, 0], int(figure.get_figwidth() / 1.3))


def draw_names(axes: Axes, columns: int) -> None:
    """The legend of `bars`, below them."""
    from matplotlib.lines import Line2D

    handles, names = axes.get_legend_handles_labels()
    handles.append(Line2D([], [], linestyle="none", marker=".", color=INK, markersize=3))
    names.append("one seed")
    axes.figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=TEXT)
