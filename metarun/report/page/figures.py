"""The figures of the page, made with plotly: traces, axes, templates of both themes, sensitivity to the inner rate.

A trace of a run's curve is a pattern: `page.js` fills in the values of each selected run, and the colour, dash and
symbol of its group. The values are in the page once, in `content.document`: a complete trace for every run
and curve would repeat the iterations that runs share, and take plotly some milliseconds each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from metarun.report import style
from metarun.report.compare import Rates, Setting, metric_of
from metarun.report.page import words
from metarun.report.page.content import Content, steps_of
from metarun.report.page.words import escaped

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif'
CLEAR = "rgba(0,0,0,0)"
THEMES = {  # of page.css: ink, paper, line
    "light": ("#1b1f24", "#ffffff", "#d5dae0"),
    "dark": ("#e6e9ed", "#14181d", "#363e47"),
}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "star", "hexagon")
CONFIG = {
    "displaylogo": False,
    "modeBarButtons": [
        ["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]
    ],  # none that would upload
    "responsive": True,
}
MOST_TICKS = 13  # of adaptation steps that are all labelled
EDGE = 1.1  # by how much the crosses of rates without a mean lie above all values, and above each other


COLOURS = {  # Okabe and Ito's without yellow, and with the theme's ink for black; on white the pale ones are darker
    "light": (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE, style.VERMILION, style.SKY, THEMES["light"][0]),
    "dark": ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", THEMES["dark"][0]),
}


def template(colours: Sequence[str], ink: str, paper: str, line: str) -> dict[str, Any]:
    """What all figures have in common in a theme.

    Args:
        colours: of groups.
        ink, paper, line: its other colours.
    """
    axis = {
        "gridcolor": line,
        "linecolor": line,
        "zerolinecolor": line,
        "automargin": True,
        "exponentformat": "e",
        "title": {"standoff": 8},
    }
    layout = go.Layout(
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        colorway=colours,
        font={"family": FONT, "size": 12, "color": ink},
        margin={"l": 56, "r": 16, "t": 16, "b": 44},
        legend={"orientation": "h", "x": 0, "y": -0.18, "yanchor": "top", "maxheight": 0.3, "itemwidth": 50},
        hovermode="closest",
        hoverlabel={"bgcolor": paper, "bordercolor": line, "font": {"color": ink}, "namelength": -1},
        dragmode="zoom",
        xaxis=axis,
        yaxis=axis,
    )
    return go.layout.Template(layout=layout).to_plotly_json()


def curve_trace() -> dict[str, Any]:
    """A learning curve, smoothed."""
    return go.Scatter(
        line={"width": 1.6},
        marker={"size": 6},
        hovertemplate="%{meta}<br>iteration %{x}: %{y:.4g}<extra></extra>",
    ).to_plotly_json()


def logged_trace() -> dict[str, Any]:
    """What a learning curve was before it was smoothed, faint behind it."""
    return go.Scatter(
        mode="lines", line={"width": 1, "dash": "solid"}, hoverinfo="skip", showlegend=False
    ).to_plotly_json()


def step_trace() -> dict[str, Any]:
    """A metric after each adaptation step, with its intervals."""
    return go.Scatter(
        mode="lines+markers",
        line={"width": 1.4},
        marker={"size": 6},
        error_y={"type": "data", "thickness": 1, "width": 2},
        hovertemplate="%{meta}<br>%{x} steps: %{y:.4g}<extra></extra>",
    ).to_plotly_json()


def axes(x_name: str, key: str, **xaxis: Any) -> dict[str, Any]:
    """A layout whose vertical axis is a metric's."""
    return go.Layout(
        xaxis={"title": {"text": escaped(x_name)}, **xaxis},
        yaxis={"title": {"text": escaped(words.axis_name(key))}},
    ).to_plotly_json()


def figures(content: Content) -> dict[str, Any]:
    """All that `page.js` draws, but for the values of runs.

    Returns:
        `templates` by theme, `config` of every plot, `dashes` and `symbols` by which groups differ, `nothing` to show
        in an empty plot; the patterns `curve`, `logged` and `step`; what each curve (`curves`) and each metric by steps
        (`metrics`) is drawn on; `rates`, a complete figure for each setting.
    """
    return {
        "templates": {theme: template(COLOURS[theme], *colors) for theme, colors in THEMES.items()},
        "config": CONFIG,
        "dashes": DASHES,
        "symbols": SYMBOLS,
        "nothing": go.layout.Annotation(
            text="nothing to draw", showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5
        ).to_plotly_json(),
        "curve": curve_trace(),
        "logged": logged_trace(),
        "step": step_trace(),
        "curves": {key: learning_curve(key) for key in [*content.curve_keys, ""]},
        "metrics": {name: drawn_on(name, "adaptation steps", **step_ticks(content)) for name in [*content.metrics, ""]},
        "rates": [rates_figure(setting, lines, content) for setting, lines in content.rates.items()],
    }


def learning_curve(key: str) -> dict[str, Any]:
    """What a learning curve is drawn on, and what its points are means of."""
    return drawn_on(key, "iteration", tickformat="~s") | {"note": words.curve_note(key)}


def drawn_on(key: str, x_name: str, **xaxis: Any) -> dict[str, Any]:
    """The name, the factor and the axes of a metric or of a curve of it."""
    return {"name": words.axis_name(key), "scale": words.scale_of(key), "layout": axes(x_name, key, **xaxis)}


def step_ticks(content: Content) -> dict[str, Any]:
    """Ticks of adaptation steps: integers, and each of them if there are few."""
    most = max((len(steps_of(run)) for run in content.runs), default=0)
    return {"tickformat": "d", "dtick": 1} if most <= MOST_TICKS else {"tickformat": "d"}


# -------------------------------------------------------------------------------- sensitivity to the inner rate


def rates_figure(setting: Setting, lines: Sequence[Rates], content: Content) -> dict[str, Any]:
    """A metric against the inner learning rate, a learner a line: mean over seeds, band from worst to best, crosses.

    Returns:
        `data`, each trace with the place of its learner as `meta`; `layout`; `words`, what it shows.
    """
    metric = metric_of(lines)
    points = {line.algo: Points(line, metric) for line in lines}
    top = max([0.0, *(value for learner in points.values() for values in learner.seeds for value in values)])
    traces = [
        trace.update(meta=content.algos.index(algo), name=escaped(algo), legendgroup=escaped(algo))
        for place, (algo, learner) in enumerate(points.items(), 1)
        for trace in rate_traces(learner, top * EDGE**place)  # crosses of several learners at a rate are apart
    ]
    rates = list(dict.fromkeys(rate for learner in points.values() for rate in learner.rates))
    layout = axes("inner learning rate", metric, type="log", tickvals=rates, ticktext=list(map(words.short, rates)))
    widths = "; ".join(f"{line.algo}: robustness {known_decades(line.width)}" for line in lines)
    name = content.names.setting(setting)
    about = f"Sensitivity: {words.axis_name(metric)} against the inner learning rate, {name}. {widths}"
    return {"data": [trace.to_plotly_json() for trace in traces], "layout": layout, "words": about}


def known_decades(width: float | None) -> str:
    """A robustness in a sentence."""
    return "unknown" if width is None else words.decades(width)


class Points:
    """A learner's rates that a log axis can show, and what was measured there, as the axis shows it.

    Attributes:
        rates: above 0.
        entries: at each of them.
        means: at each of them; None where no run completed.
        seeds: at each of them the values of the completed runs.
    """

    def __init__(self, line: Rates, metric: str) -> None:
        pairs = zip(line.rates, line.entries, strict=True)
        shown = [(rate, entry) for rate, entry in pairs if math.isfinite(rate) and rate > 0]
        scale = words.scale_of(metric)
        self.rates = [rate for rate, _ in shown]
        self.entries = [entry for _, entry in shown]
        means = [words.finite(entry.mean) for entry in self.entries]
        self.means = [None if mean is None else mean * scale for mean in means]
        self.seeds = [[value * scale for value in entry.values if math.isfinite(value)] for entry in self.entries]


def rate_traces(points: Points, top: float) -> list[go.Scatter]:
    """A learner's band, its means, and crosses at the rates where a run did not complete: on the mean or at `top`."""
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    lows, highs = ([pick(values) if values else None for values in points.seeds] for pick in (min, max))
    traces = [
        go.Scatter(x=points.rates, y=lows, **edge),
        go.Scatter(x=points.rates, y=highs, fill="tonexty", **edge),
        go.Scatter(
            x=points.rates,
            y=points.means,
            mode="lines+markers",
            line={"width": 1.8},
            marker={"size": 8},
            text=[words.count(len(entry.runs), "seed") for entry in points.entries],
            hovertemplate="%{fullData.name}, rate %{x}<br>%{y:.4g}, %{text}<extra></extra>",
        ),
    ]
    marked = [at for at, entry in enumerate(points.entries) if entry.bad]
    return [*traces, crosses(points, marked, top)] if marked else traces


def crosses(points: Points, marked: Sequence[int], top: float) -> go.Scatter:
    """The crosses at the rates at some places."""
    return go.Scatter(
        x=[points.rates[at] for at in marked],
        y=[top if points.means[at] is None else points.means[at] for at in marked],
        mode="markers",
        marker={"symbol": "x-thin", "size": 14, "line": {"width": 3}},
        text=[words.bad(points.entries[at].bad, len(points.entries[at].runs)) for at in marked],
        hovertemplate="%{fullData.name}, rate %{x}<br>%{text}<extra></extra>",
        showlegend=False,
    )
