"""The look that all figures share."""

from __future__ import annotations

import math

import pytest
from pngs import is_png
from referees import Figure

from metarun.report.style import axis_name, label, new_figure, scale_of, scaled


@pytest.mark.parametrize(
    ("metric", "scale", "name"),
    [("accuracy", 100.0, "accuracy (%)"), ("instance_1", 100.0, "instance_1 (%)"), ("mse", 1.0, "mse")],
)
def test_accuracies_are_in_percent(metric, scale, name):
    assert (scale_of(metric), axis_name(metric)) == (scale, name)


def test_a_missing_value_is_nan():
    half, missing = scaled([0.005, None], 100.0)
    assert half == 0.5 and math.isnan(missing)


def test_axes_are_named_and_open_to_the_top_and_the_right():
    axes = Figure().subplots()
    label(axes, "x", "y")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x", "y")
    visible = {side for side, spine in axes.spines.items() if spine.get_visible()}
    assert visible == {"left", "bottom"}


def test_the_suffix_chooses_the_format(tmp_path):
    for name in ("figure.png", "figure.pdf"):
        with new_figure(tmp_path / name, (4.0, 3.0)) as figure:
            figure.subplots()
    assert is_png(tmp_path / "figure.png")
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")


def test_nothing_is_written_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), new_figure(tmp_path / "figure.png", (4.0, 3.0)):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
