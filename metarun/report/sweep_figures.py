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


Seeds = Sequence[Sequence[float]]  # the value of each seed, position by position
LOOKS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"), (INK, "v"), (SKY, "P"), (VERMILION, "X"))
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
    colour is at the upper edge, and the line is the mean of the other seeds.

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
            for line, (color, marker) in zip(lines, cycle(LOOKS), strict=False):
                draw_line(axes, line, color, marker, scale_of(metric))
            axes.set_xscale("log")
            if scale_of(metric) == 1:
                axes.set_yscale("log")
            label(axes, "inner learning rate", axis_name(metric) if axes in grid[:, 0] else "")
            axes.set_title(plain(title), fontsize=10)
        draw_legend(grid[0, 0], panels)


def draw_legend(axes: Axes, panels: Mapping[str, Sequence[Line]]) -> None:
    """The legend of `sensitivity`; it has the crosses if any panel has one."""
    handles, names = axes.get_legend_handles_labels()
    if any(None in values for lines in panels.values() for line in lines for values in line.seeds):
        handles += axes.plot([], [], "x", color=INK, markersize=6)
        names.append("a seed did not complete")
    axes.legend(handles, names, frameon=False, fontsize=TEXT)


def draw_line(axes: Axes, line: Line, color: str, marker: str, scale: float) -> None:
    """One line of `sensitivity`; an x at which no seed completed is left out."""
    points = [(x, [scale * v for v in values if v is not None]) for x, values in zip(line.x, line.seeds, strict=True)]
    incomplete = [x for x, values in zip(line.x, line.seeds, strict=True) if None in values]
    if incomplete:
        top = [1.0] * len(incomplete)
        axes.plot(incomplete, top, "x", color=color, transform=axes.get_xaxis_transform(), clip_on=False, zorder=5)
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
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=TEXT)
