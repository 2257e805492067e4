"""The figures of the page: what plotly's own figures say of them, without a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import plotly.graph_objects as go
import pytest
from runs import write_run

from metarun.report.page import figures as module
from metarun.report.page.content import Content
from metarun.report.page.figures import COLOURS, DASHES, MOST_TICKS, SYMBOLS, THEMES, figures
from metarun.run_folder import read_runs


def content_of(folder, *cells) -> Content:
    for number, cell in enumerate(cells):
        write_run(folder / f"run_{number}", **cell)
    return Content(read_runs([folder]))


RATES = (
    {"seed": 0, "mean": 0.5},
    {"seed": 1, "mean": 0.6},
    {"inner_lr": 0.1, "mean": 0.7},
    {"inner_lr": 1.0, "mean": None, "status": "diverged"},
    {"inner_lr": 1.0, "seed": 1, "mean": 9.0},
    {"inner_lr": 10.0, "mean": None, "status": "diverged"},
)


def test_sensitivity_is_a_line_a_band_and_crosses(tmp_path):
    (plot,) = figures(content_of(tmp_path, *RATES))["rates"]
    low, high, means, crosses = go.Figure(plot["data"]).data
    assert means.x == (0.01, 0.1, 1, 10)
    assert means.y == (0.55, 0.7, 9, None)
    assert low.y == (0.5, 0.7, 9, None) and high.y == (0.6, 0.7, 9, None)
    assert (high.fill, low.fill) == ("tonexty", None)
    assert means.text == ("2 seeds", "1 seed", "2 seeds", "1 seed")
    assert crosses.x == (1, 10) and crosses.y == (9, pytest.approx(9.9))  # on the mean, or above all values
    assert crosses.text == ("1 of 2 diverged", "1 of 1 diverged")
    assert plot["words"] == (
        "Sensitivity: mse against the inner learning rate, as configured. maml: robustness 0 decades"
    )
    assert plot["layout"]["xaxis"]["ticktext"] == ["0.01", "0.1", "1", "10"]


def test_sensitivity_of_an_accuracy_is_in_percent_and_a_rate_of_zero_is_not_on_a_log_axis(tmp_path):
    cells = [{"inner_lr": rate, "mean": 0.5 + rate, "metric": "accuracy"} for rate in (0, 0.125, 0.25)]
    (plot,) = figures(content_of(tmp_path, *cells))["rates"]
    means = plot["data"][2]
    assert list(means["x"]) == [0.125, 0.25] and list(means["y"]) == [62.5, 75]
    assert plot["layout"]["yaxis"]["title"]["text"] == "accuracy (%)"


def test_each_trace_of_sensitivity_names_its_learner_and_its_place(tmp_path):
    cells = [{"algo": algo, "inner_lr": rate} for algo in ("<a>", "b") for rate in (0.1, 1)]
    (plot,) = figures(content_of(tmp_path, *cells))["rates"]
    traces = [(trace["meta"], trace["name"], trace["legendgroup"]) for trace in plot["data"]]
    assert traces == [(0, "&lt;a&gt;", "&lt;a&gt;")] * 3 + [(1, "b", "b")] * 3


def test_nothing_is_drawn_of_a_single_rate(tmp_path):
    assert figures(content_of(tmp_path, {}, {"algo": "tnet"}))["rates"] == []


def test_a_curve_says_what_its_points_are_means_of(tmp_path):
    write_run(tmp_path / "a")
    made = figures(Content(read_runs([tmp_path])))
    notes = {key: made["curves"][key]["note"] for key in ("train/loss", "train/mse", "val/mse", "")}
    assert "all steps since the last point" in notes["train/loss"]
    assert "one meta-batch" in notes["train/mse"] and "all validation tasks" in notes["val/mse"]
    assert notes[""] == ""


def test_curves_and_metrics_have_a_name_a_factor_and_axes(tmp_path):
    made = figures(content_of(tmp_path, {}, {"metric": "accuracy", "data": "omniglot"}))
    assert set(made["curves"]) == {"train/mse", "val/mse", "train/accuracy", "val/accuracy", "train/loss", ""}
    assert (made["curves"]["val/accuracy"]["name"], made["curves"]["val/accuracy"]["scale"]) == (
        "val/accuracy (%)",
        100,
    )
    assert (made["metrics"]["mse"]["name"], made["metrics"]["mse"]["scale"]) == ("mse", 1)
    layout = go.Layout(made["metrics"]["accuracy"]["layout"])
    assert (layout.xaxis.title.text, layout.yaxis.title.text) == ("adaptation steps", "accuracy (%)")


@pytest.mark.parametrize(("steps", "dtick"), [(MOST_TICKS, 1), (MOST_TICKS + 1, None)])
def test_few_adaptation_steps_are_all_labelled(steps, dtick, tmp_path):
    rows = [{"step": step, "mean": 1.0, "ci95": 0.1} for step in range(steps)]
    made = figures(content_of(tmp_path, {"steps": rows}))
    assert made["metrics"]["mse"]["layout"]["xaxis"].get("dtick") == dtick


def test_the_themes_are_those_of_the_style_sheet():
    style = (Path(module.__file__).parent / "page.css").read_text()
    found = {name: re.search(rf"--{name}: light-dark\((#\w+), (#\w+)\)", style) for name in ("ink", "paper", "line")}
    for at, theme in enumerate(("light", "dark"), 1):
        assert THEMES[theme] == tuple(found[name][at] for name in ("ink", "paper", "line"))
    assert module.FONT in style


def test_templates_are_plotlys_and_hold_the_colours_of_the_theme(tmp_path):
    made = figures(content_of(tmp_path, {}))
    for theme, (ink, paper, line) in THEMES.items():
        layout = go.layout.Template(made["templates"][theme]).layout
        assert tuple(layout.colorway) == COLOURS[theme]
        assert (layout.font.color, layout.hoverlabel.bgcolor, layout.xaxis.gridcolor) == (ink, paper, line)


def test_the_patterns_are_traces_of_plotly_and_looks_are_too(tmp_path):
    made = figures(content_of(tmp_path, {}))
    for name in ("curve", "logged", "step"):
        assert go.Scatter(made[name]).type == "scatter"
    for dash, symbol in zip(DASHES, SYMBOLS, strict=False):
        go.Scatter(line={"dash": dash}, marker={"symbol": symbol})
    turns = [(place, place + 2 * (place // 7)) for place in range(42)]  # as page.js has them
    assert len({(place % 7, turn % 6, turn % 8) for place, turn in turns}) == 42
    assert {len(COLOURS["light"]), len(COLOURS["dark"])} == {7} and (len(DASHES), len(SYMBOLS)) == (6, 8)


def test_no_button_uploads_a_plot(tmp_path):
    (buttons,) = figures(content_of(tmp_path, {}))["config"]["modeBarButtons"]
    assert "sendDataToCloud" not in buttons and buttons[0] == "toImage"


def test_figures_are_json(tmp_path):
    made = figures(content_of(tmp_path, *RATES))
    assert json.loads(json.dumps(made, allow_nan=False))["rates"][0]["words"] == made["rates"][0]["words"]


def test_no_run_makes_figures_too():
    made = figures(Content([]))
    assert set(made["curves"]) == {""} and made["rates"] == []
