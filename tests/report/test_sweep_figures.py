"""Figures of sweeps: sensitivity to the inner learning rate, and bars."""

from __future__ import annotations

import pytest

from metarun.report.sweep_figures import Line, bars, sensitivity


def test_sensitivity_shows_means_bands_and_published_values_on_log_scales(tmp_path, drawn):
    lines = [
        Line("MAML", [0.01, 0.1], [[1.0, 3.0], [4.0, None]], [2.5, None]),
        Line("T-net", [0.01, 0.1], [[0.5, 0.5], [None, None]]),  # diverged at 0.1: no point there
    ]
    sensitivity({"left": lines, "right": lines[:1]}, "MSE", tmp_path / "s.png")
    (left, right) = drawn[0].axes
    assert (left.get_xscale(), left.get_yscale(), left.get_title(), right.get_title()) == (
        "log",
        "log",
        "left",
        "right",
    )
    maml, published, cross, tnet, cross_of_tnet = left.lines
    assert list(cross.get_xdata()) == list(cross_of_tnet.get_xdata()) == [0.1]  # where a seed did not complete
    heights = [line.get_transform().transform(line.get_xydata())[0][1] for line in (cross, cross_of_tnet)]
    assert heights[1] - heights[0] > 5  # and neither hides the other
    assert list(maml.get_xydata().flatten()) == [0.01, 2.0, 0.1, 4.0]
    assert list(published.get_xydata().flatten()) == [0.01, 2.5] and published.get_markerfacecolor() == "none"
    assert list(tnet.get_xydata().flatten()) == [0.01, 0.5]
    names = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert names == ["MAML", "T-net", "worst to best seed", "a seed did not complete", "published"]
    assert {text.get_text() for text in left.get_yticklabels()} >= {"1"}  # and not 10 to the power of 0
    assert left.collections[0].get_paths()[0].vertices[:, 1].max() == 4.0  # the band reaches the worst seed


def test_sensitivity_of_accuracies_is_in_percent_on_a_plain_axis_and_lines_repeat_no_look(tmp_path, drawn):
    lines = [Line(f"learner {number}", [0.01, 0.1], [[0.5], [0.25]]) for number in range(7)]
    sensitivity({"": lines}, "accuracy", tmp_path / "s.pdf")
    (axes,) = drawn[0].axes
    assert (axes.get_yscale(), axes.get_ylabel()) == ("linear", "accuracy (%)")
    assert list(axes.lines[0].get_ydata()) == [50.0, 25.0]
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == 7
    assert (tmp_path / "s.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.filterwarnings("error")
def test_rates_that_all_diverged_are_on_the_axis_however_large_they_are(tmp_path, drawn):
    lines = [Line(f"learner {at}", [0.01, 1e200], [[1.0, 1.1], [None, None]]) for at in range(8)]
    sensitivity({"left": lines, "right": lines}, "mse", tmp_path / "s.png")
    for axes in drawn[0].axes[:2]:
        assert axes.get_xlim()[1] >= 1e200
        assert len({line.get_ydata()[0] for line in axes.lines if line.get_marker() == "x"}) == 8


def test_bars_are_means_with_a_dot_for_each_seed(tmp_path, drawn):
    bars({"masks": {"layer 1": [[0.2, 0.4], [0.6]]}}, ["order 0", "order 1"], "P", tmp_path / "b.png")
    (axes,) = drawn[0].axes
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([0.3, 0.6])
    assert [len(line.get_ydata()) for line in axes.lines] == [2, 1]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["order 0", "order 1"]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["layer 1", "one seed"]


def test_bars_differ_in_more_than_colour(tmp_path, drawn):
    bars({"": {f"learner {number}": [[0.5]] for number in range(7)}}, [""], "P", tmp_path / "b.png")
    assert len({bar.get_hatch() for bar in drawn[0].axes[0].patches}) == 7


def test_names_are_text_and_no_mathematics(tmp_path, drawn):
    name = "root=$a$\x1b_\\frac$b"
    sensitivity({name: [Line(name, [0.01, 0.1], [[0.5], [0.25]])]}, "mse", tmp_path / "s.png")
    bars({name: {name: [[0.2]]}}, [name], "P", tmp_path / "b.png")
    assert len(drawn) == 2
