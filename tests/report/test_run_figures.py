"""Figures of runs are complete PNGs, show the values that they get, and leave nothing behind when they fail."""

import subprocess
import sys

import numpy as np
import pytest
from pngs import is_png

from metarun.report.run_figures import (
    adapted_curves,
    instances,
    learning_curve,
    pair_scores,
    reliability,
    roc,
    step_curve,
)
from metarun.tracking.jsonl import MetricsFile

ROWS = [{"step": step, "mean": 0.2 + 0.1 * step, "ci95": 0.01, "median": None} for step in range(4)]


def tasks(count: int) -> list[dict]:
    x = np.linspace(-5, 5, 100)
    return [
        {
            "x": x,
            "y": np.sin(x - task),
            "x_support": x[::10],
            "y_support": np.sin(x[::10] - task),
            "predictions": {10: np.sin(x - task), 0: 0 * x, 1: 0.5 * np.sin(x - task)},
            "title": f"task {task}",
        }
        for task in range(count)
    ]


def test_step_curve_in_percent_with_intervals(tmp_path, drawn):
    step_curve(ROWS, "accuracy", tmp_path / "curve.png")
    assert is_png(tmp_path / "curve.png")
    axes = drawn[0].axes[0]
    assert axes.get_ylabel() == "accuracy (%)" and axes.get_xlabel() == "adaptation steps"
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_ydata(), float), [20, 30, 40, 50])
    segments = axes.collections[0].get_segments()
    np.testing.assert_allclose([end[1] - start[1] for start, end in segments], 2.0)  # mean -+ ci95


def test_learning_curve_takes_each_part_where_it_was_logged(tmp_path, drawn):
    with MetricsFile(tmp_path / "metrics.jsonl") as file:
        for iteration in range(100, 600, 100):
            file.log({"train/loss": 1.0, "train/mse": float("nan") if iteration == 300 else 2.0}, iteration)
        file.log({"val/mse": 1.5}, 500)
    learning_curve(tmp_path / "metrics.jsonl", "mse", tmp_path / "learning.png")
    assert is_png(tmp_path / "learning.png")
    train, val = drawn[0].axes[0].lines
    np.testing.assert_array_equal(train.get_xdata(), [100, 200, 300, 400, 500])
    np.testing.assert_array_equal(train.get_ydata(), [2, 2, np.nan, 2, 2])
    np.testing.assert_array_equal(val.get_xydata(), [[500, 1.5]])
    names = [entry.get_text() for entry in drawn[0].axes[0].get_legend().get_texts()]
    assert names == ["training: one meta-batch", "validation: all its tasks"]


def test_learning_curve_of_a_run_without_the_metric(tmp_path):
    MetricsFile(tmp_path / "metrics.jsonl").close()
    learning_curve(tmp_path / "metrics.jsonl", "mse", tmp_path / "learning.png")
    assert is_png(tmp_path / "learning.png")


def test_samples_are_thin_lines_and_a_normal_distribution_a_band(tmp_path, drawn):
    first, second = tasks(2)
    first["samples"] = np.stack([first["y"] + shift for shift in (-0.2, 0.0, 0.3)])
    second["deviation"] = np.full(100, 0.5)
    adapted_curves([first, second], tmp_path / "curves.png")
    left, right = drawn[0].axes[:2]
    thin = [line for line in left.lines if line.get_linewidth() == 0.6]
    np.testing.assert_allclose([line.get_ydata() for line in thin], first["samples"])
    (band,) = right.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(np.max(second["predictions"][10]) + 0.98, abs=1e-6)
    names = {text.get_text() for text in drawn[0].legends[0].get_texts()}
    assert "sampled functions" in names


def test_a_learner_that_adapts_at_once_has_nothing_before_adapting(tmp_path, drawn):
    examples = [example | {"predictions": {0: example["y"]}} for example in tasks(3)]
    adapted_curves(examples, tmp_path / "curves.png")
    names = [entry.get_text() for entry in drawn[0].legends[0].get_texts()]
    assert names == ["truth", "given the support set", "support points"]


@pytest.mark.parametrize("count", [1, 4, 6])
def test_curves_one_panel_a_task_and_one_legend(tmp_path, drawn, count):
    adapted_curves(tasks(count), tmp_path / "curves.png")
    assert is_png(tmp_path / "curves.png")
    (figure,) = drawn
    assert [axes.get_title() for axes in figure.axes] == [f"task {task}" for task in range(count)]
    (legend,) = figure.legends
    names = [entry.get_text() for entry in legend.get_texts()]
    assert names == ["truth", "after 0 steps", "after 1 step", "after 10 steps", "support points"]
    lines = {line.get_label(): line for line in figure.axes[-1].lines}
    np.testing.assert_allclose(lines["after 0 steps"].get_ydata(), 0)
    np.testing.assert_allclose(lines["after 10 steps"].get_ydata(), lines["truth"].get_ydata())
    assert len({lines[name].get_color() for name in names}) == 5


@pytest.mark.parametrize(
    ("examples", "words"),
    [([], "at least one"), ([{**tasks(1)[0], "predictions": dict.fromkeys(range(5), 0.0)}], "at most 4")],
)
def test_curves_that_cannot_be_drawn_are_refused(tmp_path, examples, words):
    with pytest.raises(ValueError, match=words):
        adapted_curves(examples, tmp_path / "curves.png")


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "curve.png"
    path.write_bytes(b"the old figure")

    def half(self, file, **_):
        file.write(b"half")
        raise OSError("full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half)
    with pytest.raises(OSError, match="full"):
        step_curve(ROWS, "mse", path)
    assert path.read_bytes() == b"the old figure"
    assert [entry.name for entry in tmp_path.iterdir()] == ["curve.png"]


def test_roc_with_the_point_of_equal_error_and_the_diagonal(tmp_path, drawn):
    curve = {"false_positive_rate": [0.0, 0.1, 0.3, 1.0], "true_positive_rate": [0.0, 0.6, 0.7, 1.0]}
    roc({"roc": curve, "eer": 0.3}, 0.904, tmp_path / "roc.png")
    assert is_png(tmp_path / "roc.png")
    chance, line, point = drawn[0].axes[0].lines
    np.testing.assert_array_equal(line.get_xydata(), np.transpose(list(curve.values())))
    np.testing.assert_array_equal(chance.get_xydata(), [[0, 0], [1, 1]])
    np.testing.assert_allclose(point.get_xydata(), [[0.3, 0.7]])  # on the curve
    names = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert names == ["chance", "ROC curve, area 0.904", "equal error rate 0.300"]


@pytest.mark.parametrize("spread", [1.0, 0.0], ids=["spread", "all equal"])
def test_scores_of_both_kinds_with_the_threshold(tmp_path, drawn, spread):
    draw = np.random.default_rng(0)
    same, different = spread * (draw.normal(size=300) + 2), spread * draw.normal(size=200)
    pair_scores(same, different, 0.8, tmp_path / "scores.png")
    assert is_png(tmp_path / "scores.png")
    (axes,) = drawn[0].axes
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [0.8, 0.8])
    names = {text.get_text() for text in drawn[0].legends[0].get_texts()}
    assert names == {"pairs of two classes", "of one class", "threshold (validation)"}
    first, second = (kind.get_xy() for kind in axes.patches)
    for outline in (first, second):  # same bins, and both add up to one however many pairs there are
        x, y = outline[:101].T  # up and down along the tops, then back along the axis
        assert np.sum(y[1:-1:2] * np.diff(x)[1::2]) == pytest.approx(1)
    np.testing.assert_array_equal(first[:101, 0], second[:101, 0])
    assert len({kind.get_hatch() for kind in axes.patches}) == 2  # not by colour alone


def test_scores_of_one_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one score each"):
        pair_scores([1.0], [], 0.0, tmp_path / "scores.png")


def test_reliability_beside_who_is_as_right_as_claimed(tmp_path, drawn):
    about = {"claimed": [0.3, 0.7, 0.95], "found": [0.4, 0.6, 0.8], "weight": [0.1, 0.3, 0.6]}
    reliability(about, "ece 0.130", ("confidence", "accuracy"), tmp_path / "reliability.png")
    assert is_png(tmp_path / "reliability.png")
    (axes,) = drawn[0].axes
    diagonal, line = axes.lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    np.testing.assert_allclose(line.get_xydata(), [[0.3, 0.4], [0.7, 0.6], [0.95, 0.8]])
    sizes = axes.collections[0].get_sizes()
    assert sizes[0] < sizes[1] < sizes[2]  # as their share
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("confidence", "accuracy")
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["as claimed", "ece 0.130", "area: share of queries"]


def test_instances_in_percent_above_chance(tmp_path, drawn):
    rows = [{"mean": mean, "ci95": 0.02} for mean in (0.36, 0.83, 0.95)]
    instances(rows, 0.2, tmp_path / "instances.png")
    assert is_png(tmp_path / "instances.png")
    (axes,) = drawn[0].axes
    line, _, _ = axes.containers[0].lines
    np.testing.assert_allclose(line.get_xydata(), [[1, 36], [2, 83], [3, 95]])
    assert axes.lines[0].get_ydata()[0] == pytest.approx(20)


def test_matplotlib_is_not_imported_before_a_figure_is_drawn():
    script = "import sys, metarun.report.run_figures; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
