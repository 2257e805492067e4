"""The look of all figures: colours, scales and labels of metrics, and a file that is written complete or not at all.

Figures are drawn with matplotlib's Agg canvas, which needs no screen and no global state; matplotlib is imported when
the first figure is drawn. Colours are Okabe and Ito's, which people with any common colour blindness can tell apart;
those that are too pale on white (contrast below 3) are darker here. No line or bar differs in colour alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from metarun.files import write_atomically
from metarun.plain_text import visible
from metarun.report.numbers import is_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
PALE, GREY, INK = "#c4c4c4", "#737373", "#222222"
BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY = "#0072B2", "#C28500", "#009E73", "#C06A98", "#B24A00", "#3B9BD6"
TEXT = 9  # points of ticks and legends


def scale_of(metric: str) -> float:
    """The factor from a metric to the unit of its axis."""
    return 100.0 if is_percent(metric) else 1.0


def axis_name(metric: str) -> str:
    """The label of a metric's axis."""
    return f"{metric} (%)" if is_percent(metric) else metric


def scaled(values: Sequence[float | None], scale: float) -> list[float]:
    """Values in the unit of their axis; None, which is JSON's NaN, becomes NaN, which matplotlib leaves out."""
    return [float("nan") if value is None else scale * value for value in values]


def plain(name: str) -> str:
    """A name for a figure, in which matplotlib would read what stands between two dollar signs as mathematics."""
    return visible(name).replace("$", r"\$")


def label(axes: Axes, x: str, y: str) -> None:
    """Name the axes, and give them the grid and the spines of all figures."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=TEXT)


@contextmanager
def new_figure(path: Path, inches: tuple[float, float]) -> Iterator[Figure]:
    """A figure that is saved to `path`, PNG or PDF, when the block ends without an error.

    Args:
        inches: width and height.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    write_atomically(path, lambda file: figure.savefig(file, dpi=DPI, format=path.suffix[1:]))
