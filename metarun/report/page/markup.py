"""The HTML of the page's tables, lists of choices and sentences. Every text of a run is escaped here."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from metarun.report.compare import Entry, Rates, Setting, metric_of, plain, published_figure
from metarun.report.numbers import origin
from metarun.report.page import words
from metarun.report.page.content import Content
from metarun.run_folder import Run

# Options of DataTables for the table of runs; the type `cell` is the order that page.js defines.
DATATABLE = {
    "autoWidth": False,
    "columnDefs": [{"targets": "_all", "type": "cell"}],
    "language": {
        "info": "_START_ to _END_ of _TOTAL_ runs",
        "infoEmpty": "no run",
        "infoFiltered": "(of _MAX_)",
        "lengthMenu": "_MENU_ runs a page",
        "zeroRecords": "No run matches.",
    },
    "layout": {
        "topStart": None,
        "topEnd": None,
        "bottomStart": None,
        "bottomEnd": None,
        "bottom": ["info", "pageLength", "paging"],
    },
    "lengthMenu": [10, 25, 50, 100, {"label": "all", "value": -1}],
    "order": [],
}


# ---------------------------------------------------------------------------------------------------- elements


def element(tag: str, content: str = "", **attributes: str | bool | None) -> str:
    """An element.

    Args:
        content: its markup.
        attributes: named as in Python, `class_` or `data_order`; values are escaped, True stands for no value, and
            None and False leave an attribute out, as does a `class_` that is empty.
    """
    text = ""
    for name, value in attributes.items():
        if value is None or value is False or (name == "class_" and not value):
            continue
        name = name.rstrip("_").replace("_", "-")
        text += f" {name}" if value is True else f' {name}="{html.escape(value)}"'
    return f"<{tag}{text}>" if tag == "input" else f"<{tag}{text}>{content}</{tag}>"


def cell(text: str, order: Any = "", class_: str = "", **attributes: str) -> str:
    """A cell of a table, and the value that it is sorted by; None comes last."""
    order = "" if order is None else str(order)
    return element("td", html.escape(text), data_order=order, class_=class_, **attributes)


def number_cell(text: str, order: float | None = None) -> str:
    """A cell in a column of numbers."""
    return cell(text, order, "number")


def setting_cell(value: Any, numeric: bool) -> str:
    """A cell with a setting, in a column of numbers or of words."""
    return cell(words.short(value), value, side(numeric))


def side(numeric: bool) -> str:
    """The class of a column of numbers or of words."""
    return "number" if numeric else ""


def heading(text: str, class_: str = "", **attributes: str | None) -> str:
    """The heading of a column."""
    return element("th", html.escape(text), scope="col", class_=class_, **attributes)


def row(cells: Iterable[str]) -> str:
    """A row of a table."""
    return element("tr", "".join(cells))


def inside_table(headings: Iterable[str], rows: Iterable[str]) -> str:
    """What is in a table."""
    return element("thead", row(headings)) + element("tbody", "\n".join(rows))


def options(choices: Iterable[tuple[str, str]], chosen: str | None = None) -> str:
    """What is in a list of choices, from (value, text)."""
    return "".join(
        element("option", html.escape(text), value=value, selected=value == chosen) for value, text in choices
    )


def same(names: Iterable[str]) -> list[tuple[str, str]]:
    """Choices whose values are their texts."""
    return [(name, name) for name in names]


def any_of(names: Iterable[str]) -> str:
    """What is in a list of choices to filter by."""
    return options([("", "any"), *same(names)])


def are_numbers(values: Sequence[Any]) -> bool:
    """Whether values are numbers or missing, and not all missing."""
    return any(map(words.is_number, values)) and all(value is None or words.is_number(value) for value in values)


# ---------------------------------------------------------------------------------------------- parts of a page


def parts(content: Content) -> dict[str, str]:
    """What `page.html` names, but for its title, scripts, style and data."""
    curve, metric = ([*names, ""][0] for names in (content.curve_keys, content.metrics))
    sizes = [sum(len(line.rates) for line in lines) for lines in content.rates.values()]
    return {
        "summary": html.escape(summary(content)),
        "statuses": any_of(content.statuses),
        "algos": any_of(content.algos),
        "runs": runs_table(content),
        "runs_note": html.escape(words.glued(runs_note(content))),
        "curves": options((key, words.curve_name(key)) for key in content.curve_keys),
        "curve_log": checked(not words.in_percent(curve)),
        "metrics": options((name, words.axis_name(name)) for name in content.metrics),
        "metric_log": checked(not words.in_percent(metric)),
        "groupings": options(same(content.group_names), "learner" if len(content.algos) > 1 else "run"),
        "comparison": comparison_table(content),
        "comparison_note": html.escape(words.glued(comparison_note(content))),
        "no_rates": "" if content.rates else "hidden",
        "rates_settings": options(rates_settings(content), str(sizes.index(max(sizes))) if sizes else None),
        "rates_log": checked(any(not words.in_percent(metric_of(lines)) for lines in content.rates.values())),
        "rates": "\n".join(rates_table(place, lines) for place, lines in enumerate(content.rates.values())),
    }


def checked(on: bool) -> str:
    """The attribute of a box."""
    return "checked" if on else ""


def summary(content: Content) -> str:
    """`9 runs · 6 completed · 3 diverged`."""
    statuses = (f"{number} {status}" for status, number in content.statuses.items())
    return " · ".join([words.count(len(content.runs), "run"), *statuses])


def runs_note(content: Content) -> str:
    """What the table of runs shows: its metrics, intervals and times, and where the published figures are from."""
    tested = "± 95 %: half the 95 % interval of the mean over held-out tasks."
    timed = "Training time: with validations and checkpoints, without the test; of fused runs, that of all together."
    metrics = words.metrics_note(content.metrics)
    return " ".join(filter(None, (f"{metrics}." if metrics else "", tested, timed, sources(content))))


def sources(content: Content) -> str:
    """Where the published figures are from."""
    papers = filter(None, map(paper_of, content.runs))
    texts = dict.fromkeys(origin(paper) or words.NOTHING for paper in papers)
    return f"Published figures: {'; '.join(texts)}." if texts else ""


# ------------------------------------------------------------------------------------------------ table of runs


class Column(NamedTuple):
    """A column of the table of runs.

    Attributes:
        name: its heading.
        class_: of the heading.
        cell: the cell of a run.
        search_name: what `page.js` filters it by.
    """

    name: str
    class_: str
    cell: Callable[[Run], str]
    search_name: str | None = None


def runs_table(content: Content) -> str:
    """A box to select each run, what it is, and its result."""
    columns = run_columns(content)
    chooser = element("span", "selected", class_="hidden-text")
    headings = [
        element("th", chooser, scope="col", data_orderable="false", data_searchable="false"),
        *(heading(column.name, column.class_, data_name=column.search_name) for column in columns),
    ]
    rows = [
        row([box(run, place in content.selected), *(column.cell(run) for column in columns)])
        for place, run in enumerate(content.runs)
    ]
    return inside_table(headings, rows)


def box(run: Run, selected: bool) -> str:
    """The cell with the box that selects a run."""
    label = f"plot {run.name}"
    return element("td", element("input", type="checkbox", aria_label=label, checked=selected, autocomplete="off"))


def run_columns(content: Content) -> list[Column]:
    """The columns after the boxes: the result is among the few that a phone shows.

    Metric, problem and published are there only where they tell runs apart.
    """
    metrics = content.metrics
    seeds = are_numbers([plain(run.seed) for run in content.runs])
    headline = metrics[0] if len(metrics) == 1 else "result"
    return [
        Column("run", "", name_cell),
        Column(f"{headline} ± 95 %", "number", result_cell),
        *([Column("metric", "", metric_cell)] if len(metrics) > 1 else []),
        *([Column("published", "number", published_cell)] if any(map(paper_of, content.runs)) else []),
        Column("learner", "", lambda run: cell(run.algo, run.algo), "learner"),
        Column("status", "", status_cell, "status"),
        *([Column("problem", "wrap", partial(problem_cell, content))] if content.problems else []),
        Column("data", "", lambda run: cell(run.data, run.data)),
        *(setting_column(content, key) for key in content.columns),
        Column("seed", side(seeds), lambda run: setting_cell(plain(run.seed), seeds)),
        Column("iterations", "number", iterations_cell),
        Column("training time", "number", seconds_cell),
    ]


def setting_column(content: Content, key: str) -> Column:
    """The column of a setting."""
    numeric = are_numbers([content.value_of(run, key) for run in content.runs])
    name = content.names[key]
    return Column(name, side(numeric), lambda run: setting_cell(content.value_of(run, key), numeric))


def name_cell(run: Run) -> str:
    name = html.escape(run.name)
    return element("th", name, scope="row", data_order=run.name, class_="name", title=run.name)


def status_cell(run: Run) -> str:
    return cell(run.status, run.status, "status", data_status=run.status)


def problem_cell(content: Content, run: Run) -> str:
    problem = content.problems.get(run.folder, "")
    return cell(problem, problem, "wrap" if problem else "")


def result_cell(run: Run) -> str:
    mean = words.finite(run.mean)
    return number_cell(words.measure(mean, run.metric, words.finite(run.result.get("ci95"))), mean)


def metric_cell(run: Run) -> str:
    return cell(words.text_of(run.metric), run.metric)


def published_cell(run: Run) -> str:
    paper = paper_of(run)
    return number_cell(published(paper, run.metric), paper["value"]) if paper else number_cell(words.NOTHING)


def iterations_cell(run: Run) -> str:
    iterations = words.finite(run.result.get("iterations"))
    return number_cell(words.NOTHING if iterations is None else words.grouped(iterations), iterations)


def seconds_cell(run: Run) -> str:
    seconds = words.finite(run.result.get("train_seconds"))
    replicas = words.finite(run.result.get("replicas")) or 1
    shared = f" ({words.grouped(replicas)} together)" if seconds is not None and replicas > 1 else ""
    return number_cell(words.duration(seconds) + shared, seconds)


def paper_of(run: Run) -> dict[str, Any] | None:
    """The published figure beside a run, and where it is from; None where there is no number."""
    return known_paper(published_figure(run))


def known_paper(paper: dict[str, Any] | None) -> dict[str, Any] | None:
    """A published figure as the page shows it."""
    if paper is None:
        return None
    numbers = {key: words.finite(paper.get(key)) for key in ("value", "ci95")}
    return numbers | {key: words.beginning(paper.get(key)) for key in ("source", "table", "read")}


def published(paper: dict[str, Any], metric: str) -> str:
    """A published figure with its interval."""
    return words.measure(paper["value"], metric, paper["ci95"])


# ---------------------------------------------------------------------------------------- learners by settings


def comparison_table(content: Content) -> str:
    """Learners by settings, a row a setting; empty where no run names its learner."""
    table, keys = content.table, content.keys
    if not table.settings:
        return ""
    settings = [dict(setting) for setting in table.settings]
    numeric = [are_numbers([setting.get(key) for setting in settings]) for key in keys]
    headings = [heading(content.names[key], side(flag)) for key, flag in zip(keys, numeric, strict=True)]
    headings += [heading(algo, "number") for algo in table.algos]
    rows = [
        row(
            [
                *(setting_cell(values.get(key), flag) for key, flag in zip(keys, numeric, strict=True)),
                *(entry_cell(entry, len(content.metrics) > 1) for entry in table.column(setting)),
            ]
        )
        for setting, values in zip(table.settings, settings, strict=True)
    ]
    return inside_table(headings, rows)


def entry_cell(entry: Entry | None, names_metric: bool) -> str:
    """A learner at a setting: its mean, the published figure, runs that did not complete."""
    if entry is None:
        return number_cell("")
    mean, metric = words.finite(entry.mean), entry.metric
    mark = "★ " if entry.best else "≈ " if entry.tie else ""
    unit = f" {metric}" if names_metric and mean is not None and not words.in_percent(metric) else ""
    lines = html.escape(f"{mark}{words.measure(mean, metric, words.finite(entry.ci95))}{unit}")
    if paper := known_paper(entry.paper):
        lines += element("span", html.escape(f"published {published(paper, metric)}"), class_="published")
    if entry.bad:
        lines += element("span", html.escape(words.bad(entry.bad, len(entry.runs))), class_="badly")
    return element("td", lines, class_="number best" if entry.best else "number")


def comparison_note(content: Content) -> str:
    """What the table of learners by settings shows."""
    left_out = content.table.left_out
    older = f" {words.count(left_out, 'older run')} of the same configuration and seed left out." if left_out else ""
    if not content.table.settings:
        return "No run names its learner."
    return (
        "Mean over seeds ± half its 95 % interval (one seed: over its held-out tasks). Bold ★: best of the setting; "
        f"≈: its interval overlaps the best's.{older}"
    )


# -------------------------------------------------------------------------------- sensitivity to the inner rate


def rates_settings(content: Content) -> list[tuple[str, str]]:
    """The choices of settings: each with what tells it from the others."""
    settings = list(content.rates)
    return [
        (str(place), content.names.setting(distinctive(setting, settings))) for place, setting in enumerate(settings)
    ]


def distinctive(setting: Setting, settings: Sequence[Setting]) -> Setting:
    """What a setting does not have in common with all others; all of it where there is no other."""
    others = [dict(other) for other in settings]
    common = {pair for pair in setting if all(pair[0] in other and other[pair[0]] == pair[1] for other in others)}
    return setting if len(settings) < 2 else tuple(pair for pair in setting if pair not in common)


def rates_table(place: int, lines: Sequence[Rates]) -> str:
    """Best rate and robustness of each learner at a setting; hidden until its setting is chosen."""
    metric = metric_of(lines)
    headings = [
        heading("learner"),
        *(heading(name, "number") for name in ("best rate", f"best {metric}", "robustness")),
    ]
    inside = inside_table(headings, (rates_row(line, metric) for line in lines))
    return element("table", inside, class_="grid", data_setting=str(place), hidden=True)


def rates_row(line: Rates, metric: str) -> str:
    """A learner's best rate, its mean there, and its robustness."""
    rate, width = words.finite(line.best_rate), words.finite(line.width)
    best = None if rate is None else words.finite(line.entries[line.rates.index(rate)].mean)
    return row(
        [
            element("th", html.escape(line.algo), scope="row"),
            number_cell(words.short(rate), rate),
            number_cell(words.measure(best, metric), best),
            number_cell(words.decades(width), width),
        ]
    )
