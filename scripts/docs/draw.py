"""Pictures of tasks of a data set, and of a learner's predictions of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarun.report.style import BLUE, GREEN, INK, ORANGE, PURPLE, label, new_figure
from metarun.tasks import Pairs, TaskSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

COLORS = (BLUE, ORANGE, GREEN, PURPLE, INK)
MARKERS = ("o", "s", "^", "D", "v")
MOST = 150_000  # bytes of a picture


def data_set(name: str) -> TaskSet:
    """A data set with its defaults, on the CPU."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from metarun.experiment.choices import describe

    return instantiate(OmegaConf.create({"data": describe("data", name)}).data, device="cpu")


def draw_tasks(name: str, path: Path) -> None:
    """Draw some held-out tasks of a data set.

    Raises:
        DataError: the data is not there.
    """
    data = data_set(name)
    batch: Any = data.eval_block("test", data.evaluation_stream, 0)
    if data.kind == "verification":
        draw_pairs(batch, path)
    elif len(data.in_shape()) == 3:
        draw_episodes(batch, path)
    elif name == "clusters":
        draw_clusters(batch, path)
    elif name == "quadratics":
        draw_quadratics(batch, path)
    else:
        draw_curves(data, path)


# -------------------------------------------------------------------------------------------------------- images


def show(axes: Axes, image: Tensor, color: str | None = None) -> None:
    """An image `[C, H, W]`, whatever its normalisation, ink dark where it is grey, in a frame of a colour."""
    low, high = image.min(), image.max()
    pixels = ((image - low) / (high - low).clamp(min=1e-6)).movedim(0, -1).numpy()
    if pixels.shape[-1] == 1:
        axes.imshow(1 - pixels[..., 0], cmap="gray", vmin=0, vmax=1)
    else:
        axes.imshow(pixels)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(color=color or "#cfcfcf", linewidth=2.4 if color else 0.8)


def draw_episodes(batch: Any, path: Path, tasks: int = 2, queries: int = 4) -> None:
    """Tasks side by side: a column for each class (at most five), the support image above queries."""
    with new_figure(path, (7.2, 4.1)) as figure:
        panels: Any = figure.subfigures(1, tasks, wspace=0.06)
        for number, panel in enumerate(panels):
            panel.suptitle(f"Task {number + 1}: a column for each class", fontsize=9)
            ways = min(5, int(batch.support.y[number].max()) + 1)
            grid = panel.subplots(1 + queries, ways)
            for way in range(ways):
                column(grid[:, way], batch, number, way, queries)
            grid[0, 0].set_ylabel("support", fontsize=8)
            grid[1, 0].set_ylabel("queries", fontsize=8)


def column(cells: Any, batch: Any, task: int, way: int, queries: int) -> None:
    """The first support image and some queries of a class."""
    show(cells[0], batch.support.x[task][batch.support.y[task] == way][0], BLUE)
    chosen = batch.query.x[task][batch.query.y[task] == way][:queries]
    for row in range(queries):
        if row < len(chosen):
            show(cells[row + 1], chosen[row])
        else:
            cells[row + 1].axis("off")


def draw_pairs(batch: Pairs, path: Path, columns: int = 6) -> None:
    """Pairs of one class above pairs of two."""
    widths = [1.0, 1.0, 0.4] * columns  # two images and a gap
    with new_figure(path, (7.2, 1.5)) as figure:
        grid = figure.subplots(2, 3 * columns, gridspec_kw={"width_ratios": widths})
        for row, (same, name) in enumerate(((1, "same class"), (0, "two classes"))):
            chosen = batch.x[0][batch.y[0] == same][:columns]
            for index, pair in enumerate(chosen):
                for side in (0, 1):
                    show(grid[row, 3 * index + side], pair[side], (BLUE, ORANGE)[1 - same])
            for gap in grid[row, 2::3]:
                gap.axis("off")
            grid[row, 0].set_ylabel(name, fontsize=7)


def draw_predictions(folder: Path, path: Path) -> None:
    """A held-out task as a trained classifier of images solves it: support images, and queries, right or wrong."""
    from metarun import load

    learner = load(folder)
    batch: Any = learner.data.eval_block("test", "episodes", 0)
    x, y, queries, truth = batch.support.x[0], batch.support.y[0], batch.query.x[0], batch.query.y[0]
    predicted = learner.adapt(x, y.tolist()).predict(queries)
    ways, each = len(y), len(truth) // len(y)
    with new_figure(path, (8.4, 2.6)) as figure:
        grid = figure.subplots(1 + each, ways)
        for way in range(ways):
            show(grid[0, way], x[y == way][0], INK)
            for row, index in enumerate((truth == way).nonzero()[:, 0].tolist()):
                right = int(predicted[index]) == way
                show(grid[row + 1, way], queries[index], BLUE if right else ORANGE)
                mark(grid[row + 1, way], right)
        grid[0, 0].set_ylabel("support", fontsize=7)
        grid[1, 0].set_ylabel("queries", fontsize=7)


def mark(axes: Axes, right: bool) -> None:
    """A tick or a cross in a corner, for those who do not tell the colours apart."""
    sign, color = ("\u2713", BLUE) if right else ("\u2717", ORANGE)
    axes.text(
        0.98, 0.02, sign, transform=axes.transAxes, color=color, ha="right", va="bottom", fontsize=7, weight="bold"
    )


# -------------------------------------------------------------------------------------------- curves and points


def draw_curves(data: TaskSet, path: Path, tasks: int = 6) -> None:
    """Functions of several tasks, with the points of their support sets."""
    from metarun.sampling import stream_generator

    drawn = data.curves(tasks, 200, stream_generator("cpu", "held-out", "test", 0))
    assert drawn is not None  # of curves it never is
    task, titles = drawn
    with new_figure(path, (7.2, 3.9)) as figure:
        grid = figure.subplots(2, 3, sharex=True, sharey=True)
        for number, axes in enumerate(grid.flat):
            axes.plot(
                task.query.x[number, :, 0], task.query.y[number, :, 0], color=BLUE, linewidth=1.6, label="function"
            )
            support = task.support.x[number, :, 0], task.support.y[number, :, 0]
            axes.plot(*support, "o", color=INK, markersize=4, label="support points")
            label(axes, "", "")
            axes.set_title(titles[number], fontsize=8)
        name_axes(figure, "x", "y")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)


def name_axes(figure: Figure, x: str, y: str) -> None:
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)


def draw_clusters(batch: Any, path: Path, tasks: int = 3) -> None:
    """The first two coordinates of points of several tasks."""
    with new_figure(path, (7.2, 2.9)) as figure:
        grid = figure.subplots(1, tasks, sharex=True, sharey=True)
        for number, axes in enumerate(grid):
            for way, (color, marker) in enumerate(zip(COLORS, MARKERS, strict=True)):
                for part, size, name in ((batch.support, 60, "support"), (batch.query, 18, "query")):
                    points = part.x[number][part.y[number] == way]
                    if len(points):
                        axes.scatter(points[:, 0], points[:, 1], s=size, color=color, marker=marker, label=name)
            label(axes, "", "")
            axes.set_title(f"Task {number + 1}: support large, queries small", fontsize=8)
        name_axes(figure, f"coordinate 1 of {batch.support.x.shape[-1]}", "coordinate 2")


def draw_quadratics(batch: Any, path: Path, tasks: int = 3) -> None:
    """Values of several functions in the plane of their first two coordinates through the minimum."""
    import torch

    line = torch.linspace(-2, 2, 81)
    with new_figure(path, (7.2, 2.9)) as figure:
        grid = figure.subplots(1, tasks)
        for number, axes in enumerate(grid):
            x, y = batch.support.x[number], batch.support.y[number]
            least = torch.linalg.lstsq(x, y).solution[:, 0]
            theta = least.repeat(81, 81, 1)
            theta[..., 0] += line
            theta[..., 1] += line.unsqueeze(1)
            value = (theta @ x.T - y[:, 0]).square().mean(-1)
            drawn = axes.contourf(line, line, value, levels=12, cmap="cividis")
            axes.plot(0, 0, "+", color="white", markersize=9, markeredgewidth=2)
            figure.colorbar(drawn, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
            label(axes, "", "")
            axes.set_title(f"Task {number + 1}: value of f", fontsize=8)
        name_axes(figure, "coordinate 1, from the minimum", "coordinate 2")


# -------------------------------------------------------------------------------------------------------- files


def shrink(path: Path) -> None:
    """Write a PNG with at most 256 colours.

    Raises:
        ValueError: it is still too large for the repository.
    """
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    if path.stat().st_size > MOST:
        raise ValueError(f"{path} must be at most {MOST} bytes; got {path.stat().st_size}")
