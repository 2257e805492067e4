"""TODO."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from metarun.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


DPI = 150


PALE, GREY, INK = "#cfcfcf", "#9a9a9a", "#222222"


BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"


def scale_of(metric: str) -> float:
    return 100.0 if metric.startswith(("accuracy", "instance_")) else 1.0


def axis_name(metric: str) -> str:
    return f"{metric} (%)" if metric.startswith(("accuracy", "instance_")) else metric


def scaled(values: Sequence[float | None], scale: float) -> list[float]:
    """Values in the axis's unit; None, JSON's NaN, is NaN again, which matplotlib leaves out."""
    return [float("nan") if value is None else scale * value for value in values]


def label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


@contextmanager
def new_figure(path: Path, inches: tuple[float, float]) -> Iterator[Figure]:
    """A figure (width, height in inches) that is saved to `path` when the block ends without an error."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    write_atomically(path, lambda file: figure.savefig(file, dpi=DPI, format=path.suffix[1:]))
