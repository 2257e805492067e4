"""Figures of a run: its metric while adapting and training, adapted functions, pairs, calibration, instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarun.checks import require
from metarun.report.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PURPLE,
    TEXT,
    axis_name,
    label,
    new_figure,
    scale_of,
    scaled,
)
from metarun.tracking.jsonl import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEAN = "mean over tasks, 95 % interval"
STYLES = ((ORANGE, (0, (1, 1.2))), (GREEN, (0, (5, 1.5))), (BLUE, "solid"), (PURPLE, (0, (5, 1.5, 1, 1.5))))
AT_ONCE = ((BLUE, "solid"),)  # of a learner whose one prediction follows from the support set without steps


def step_curve(rows: Sequence[Mapping[str, Any]], metric: str, path: Path) -> None:
    """Draw the mean with its 95 % interval, and the median, after 0..S adaptation steps.

    Args:
        rows: {step, mean, ci95, median}, as `steps` in result.json; a missing number (None) leaves a gap.
        metric: its name; accuracies between 0 and 1 are shown in percent.
        path: the PNG, written complete or not at all.
    """
    scale = scale_of(metric)
    steps = [row["step"] for row in rows]
    mean, width, median = (scaled([row[key] for row in rows], scale) for key in ("mean", "ci95", "median"))
    with new_figure(path, (5.0, 3.4)) as figure:
        axes = figure.subplots()
        axes.errorbar(
            steps,
            mean,
            yerr=width,
            color=BLUE,
            marker="o",
            markersize=4,
            capsize=3,
            label=MEAN,
        )
        axes.plot(steps, median, color=ORANGE, linestyle=(0, (4, 2)), linewidth=1.2, label="median over tasks")
        label(axes, "adaptation steps", axis_name(metric))
        axes.locator_params(axis="x", integer=True)
        axes.legend(frameon=False, fontsize=TEXT, reverse=True)  # the mean before the median


def learning_curve(metrics_jsonl_path: Path, metric: str, path: Path) -> None:
    """Draw `train/METRIC` and `val/METRIC` of a metrics.jsonl against the iteration.

    The first is of the one meta-batch of the iteration that was logged, the second the mean over all validation tasks,
    and the legend says so.

    Args:
        metrics_jsonl_path: a run's metrics.jsonl; a half-written last line is skipped.
        metric: its name; accuracies between 0 and 1 are shown in percent.
        path: the PNG, written complete or not at all.
    """
    rows = read_metrics(metrics_jsonl_path)
    with new_figure(path, (5.0, 3.4)) as figure:
        axes = figure.subplots()
        styles: tuple[tuple[str, str, dict[str, Any]], ...] = (
            ("train", "training: one meta-batch", {"color": GREY, "linewidth": 1.0}),
            ("val", "validation: all its tasks", {"color": BLUE, "linewidth": 1.6, "marker": "o", "markersize": 3}),
        )
        for split, name, style in styles:
            points = [(row["iteration"], row[f"{split}/{metric}"]) for row in rows if f"{split}/{metric}" in row]
            if points:
                iterations, values = zip(*points, strict=True)
                axes.plot(iterations, scaled(values, scale_of(metric)), label=name, **style)
        label(axes, "iteration (outer steps)", axis_name(metric))
        if axes.lines:
            axes.legend(frameon=False, fontsize=TEXT)


def adapted_curves(examples: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw, task by task, the true function, its support points and the predictions after some adaptation steps.

    Those of a learner that adapts at once, which has no steps, are `given the support set`.

    Args:
        examples: one a task, of arrays: `x_support`, `y_support` [shots]; `x`, `y` [points], the true function on a
            dense grid; `predictions` {steps: y [points]} for at most four numbers of steps; `title`; and for a
            distribution after the last of them `samples` [S, points] or the standard `deviation` [points].
        path: the PNG, written complete or not at all.

    Raises:
        ValueError: there is no example, or more than four numbers of steps.
    """
    if not examples:
        raise ValueError("examples must hold at least one task")
    most = max(len(example["predictions"]) for example in examples)
    require("predictions", most, most <= len(STYLES), f"at most {len(STYLES)} numbers of steps, one a colour")
    columns = min(3, len(examples))
    rows = ceil(len(examples) / columns)
    with new_figure(path, (3.1 * columns, 2.3 * rows + 0.5)) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, example in zip(grid.flat, examples, strict=False):
            draw_task(axes, example)
        for axes in grid.flat[len(examples) :]:
            axes.remove()
        for axes in grid.flat[: len(examples)][-columns:]:
            axes.tick_params(labelbottom=True)  # also above an empty place in the last row
        figure.supxlabel("x", fontsize=9)
        figure.supylabel("y", fontsize=9)
        handles, names = grid[0, 0].get_legend_handles_labels()
        columns = min(len(names), 2 * columns)  # as many as there is room for
        figure.legend(handles, names, loc="outside upper center", ncols=columns, frameon=False, fontsize=TEXT)


def roc(verification: Mapping[str, Any], auc: float, path: Path) -> None:
    """Draw the ROC curve of pairs, the point of equal error, and the diagonal, which is chance.

    Args:
        verification: `roc` (false and true positive rates) and `eer`, as in result.json.
        auc: the headline, for the legend.
        path: the PNG, written complete or not at all.
    """
    curve, eer = verification["roc"], verification["eer"]
    with new_figure(path, (4.0, 3.8)) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 2)), linewidth=1.0, label="chance")
        x, y = curve["false_positive_rate"], curve["true_positive_rate"]
        axes.plot(x, y, color=BLUE, linewidth=1.6, label=f"ROC curve, area {auc:.3f}")
        axes.plot([eer], [1 - eer], "o", color=ORANGE, markersize=6, zorder=3, label=f"equal error rate {eer:.3f}")
        label(
            axes, "false positive rate\n(different pairs called same)", "true positive rate\n(same pairs called same)"
        )
        axes.set_aspect("equal")
        axes.legend(frameon=False, fontsize=TEXT, loc="lower right")


def pair_scores(same: Sequence[float], different: Sequence[float], threshold: float, path: Path) -> None:
    """Draw histograms of the scores of pairs from one class and from two, and the threshold between them.

    Args:
        same, different: scores, at least one each.
        threshold: the least score at which a pair is predicted to be of one class.
        path: the PNG, written complete or not at all.

    Raises:
        ValueError: there are no scores of one kind.
    """
    if not len(same) or not len(different):
        raise ValueError("same and different must hold at least one score each")
    low, high = min(min(same), min(different)), max(max(same), max(different))
    bounds = (low, high) if high > low else (low - 0.5, high + 0.5)
    with new_figure(path, (5.0, 3.4)) as figure:
        axes = figure.subplots()
        looks = ((different, ORANGE, "//", "pairs of two classes"), (same, BLUE, "", "of one class"))
        for scores, color, hatch, name in looks:
            options: dict[str, Any] = {"bins": 50, "range": bounds, "density": True, "histtype": "stepfilled"}
            axes.hist(
                scores, **options, facecolor=f"{color}70", edgecolor=color, hatch=hatch, linewidth=1.2, label=name
            )
        axes.axvline(threshold, color=INK, linestyle=(0, (4, 2)), linewidth=1.2, label="threshold (validation)")
        label(axes, "score of a pair (larger: more alike)", "density")
        figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=TEXT, columnspacing=1.2)


def reliability(calibration: Mapping[str, Sequence[float]], error: str, names: tuple[str, str], path: Path) -> None:
    """Draw the observed against the claimed frequency, dots as large as their share, and the diagonal of equality.

    Args:
        calibration: `claimed`, `found` and `weight`, as `calibration` in result.json.
        error: the calibration error in a few words, for the legend.
        names: of the two axes.
        path: the PNG, written complete or not at all.
    """
    with new_figure(path, (4.0, 3.8)) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 2)), linewidth=1.0, label="as claimed")
        claimed, observed = calibration["claimed"], calibration["found"]
        axes.plot(claimed, observed, color=BLUE, linewidth=1.4, label=error)
        areas = [6 + 160 * weight for weight in calibration["weight"]]
        name = "area: share of queries" if len(set(calibration["weight"])) > 1 else None
        axes.scatter(claimed, observed, s=areas, color=BLUE, zorder=3, linewidths=0, clip_on=False, label=name)
        label(axes, *names)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.legend(frameon=False, fontsize=TEXT, loc="upper left")


def instances(estimates: Sequence[Mapping[str, Any]], chance: float, path: Path) -> None:
    """Draw the accuracy on the first instance of a class, the second, ..., with its 95 % interval.

    Args:
        estimates: {mean, ci95}, between 0 and 1, from the first instance on.
        chance: the accuracy of guessing.
        path: the PNG, written complete or not at all.
    """
    numbers = range(1, len(estimates) + 1)
    mean, width = (scaled([row[key] for row in estimates], 100.0) for key in ("mean", "ci95"))
    with new_figure(path, (5.0, 3.4)) as figure:
        axes = figure.subplots()
        axes.axhline(100 * chance, color=GREY, linestyle=(0, (4, 2)), linewidth=1.0, label="chance")
        axes.errorbar(numbers, mean, yerr=width, color=BLUE, marker="o", markersize=4, capsize=3, label=MEAN)
        label(axes, "instance of a class (1: its first)", "accuracy (%)")
        axes.set_ylim(0, 102)
        axes.locator_params(axis="x", integer=True)
        axes.legend(frameon=False, fontsize=TEXT, loc="lower right")


def draw_task(axes: Axes, example: Mapping[str, Any]) -> None:
    """One task of `adapted_curves`."""
    # The truth is wide and pale, underneath: a good prediction would hide a thin line.
    axes.plot(example["x"], example["y"], color=PALE, linewidth=4.5, label="truth")
    predictions = sorted(example["predictions"].items())
    styles = STYLES if len(predictions) > 1 else AT_ONCE
    for (steps, y), (color, dashes) in zip(predictions, styles, strict=False):
        name = steps_name(steps) if len(predictions) > 1 else "given the support set"
        axes.plot(example["x"], y, color=color, linestyle=dashes, linewidth=1.6, label=name)
        if steps == max(example["predictions"]):
            draw_spread(axes, example, y, color)
    axes.plot(
        example["x_support"],
        example["y_support"],
        "o",
        color=INK,
        markersize=4.5,
        zorder=3,
        label="support points",
    )
    label(axes, "", "")
    axes.set_title(example.get("title", ""), fontsize=9)


def draw_spread(axes: Axes, example: Mapping[str, Any], mean: Sequence[float], color: str) -> None:
    """Sampled functions as thin lines, or a band that should hold 95 % of the targets, around a prediction."""
    for number, sample in enumerate(example.get("samples", ())):
        name = None if number else "sampled functions"
        axes.plot(example["x"], sample, color=color, linewidth=0.6, alpha=0.5, label=name)
    if "deviation" in example:
        low, high = ([m + sign * 1.96 * d for m, d in zip(mean, example["deviation"], strict=True)] for sign in (-1, 1))
        axes.fill_between(example["x"], low, high, color=color, alpha=0.18, linewidth=0, label="95 % interval")


def steps_name(steps: int) -> str:
    """The name of a prediction after some adaptation steps."""
    return "after 1 step" if steps == 1 else f"after {steps} steps"
