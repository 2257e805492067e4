"""The records of docs/results as tables of the site."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from functools import cache

from scipy.stats import t as student

from scripts.docs.markdown import escaped, folded, prose, shell, table
from scripts.results.records import Record, load

PERCENT = "\u00a0%"


@cache
def records() -> tuple[Record, ...]:
    return tuple(load())


def amount(value: float | None, metric: str) -> str:
    """A figure as the tables write it: accuracies and areas in percent, errors in three significant digits."""
    if value is None:
        return "not finite"
    return f"{100 * value:.2f}{PERCENT}" if is_share(metric) else f"{value:.3g}"


def is_share(metric: str) -> bool:
    return metric.removeprefix("median_").startswith(("accuracy", "instance_", "auc", "coverage"))


def interval(record: Record) -> float | None:
    """Half of the 95 % interval: over held-out tasks of one run, over seeds of several (Student's t)."""
    means = [run.mean for run in record.runs if run.mean is not None]
    if len(means) == len(record.runs) > 1:
        return float(student.ppf(0.975, len(means) - 1)) * statistics.stdev(means) / len(means) ** 0.5
    return record.runs[0].ci95 if len(record.runs) == 1 else None


def with_interval(value: float | None, half: float | None, metric: str) -> str:
    """A figure and half of its interval, in one unit."""
    text = amount(value, metric)
    if half is None or value is None:
        return text
    return f"{text.removesuffix(PERCENT)}\u00a0±\u00a0{amount(half, metric)}"


def measured(record: Record) -> str:
    """Mean and interval of the headline."""
    return with_interval(record.mean, interval(record), record.metric)


def published(record: Record) -> str:
    """What the paper prints, with where."""
    if record.published is None:
        return ""
    figure = record.published
    text = with_interval(figure.value, figure.ci95, record.metric)
    return f"{text} ({prose(', '.join(filter(None, (figure.source, figure.table))))})"


def seeds(record: Record) -> str:
    if len(record.runs) == 1 and record.runs[0].seed is None:
        return "several"
    return str(len(record.runs))


def result_table(chosen: Sequence[Record], page: str = "") -> str:
    """Cells side by side with what is published, each linked to how it was measured, on this page or another.

    Args:
        page: the page that has `provenance` of the cells; empty: this one.
    """
    head = ["Cell", "Data", "Metric", "Measured", "Published", "Seeds", "Tasks", "Iterations"]
    rows = [
        [
            f"[{escaped(record.cell)}]({page}#{anchor(record)})",
            task(record),
            escaped(record.metric) + _steps(record.step),
            measured(record) + (" (transductive)" if record.transductive else ""),
            published(record),
            seeds(record),
            str(record.tasks),
            f"{record.iterations:,}",
        ]
        for record in chosen
    ]
    return table(head, rows)


def _steps(step: int | None) -> str:
    return "" if step is None else f", {step} step{'' if step == 1 else 's'}"


def task(record: Record) -> str:
    """The data set, its partition where it has several, ways and shots."""
    data = (record.config or {}).get("data", {})
    words = [escaped(record.data)]
    if data.get("partition") and record.data.startswith("omniglot"):
        words.append(str(data["partition"]))
    if data.get("ways"):
        words.append(f"{data['ways']}-way {data['shots']}-shot")
    elif data.get("shots"):
        words.append(f"{data['shots']} point{'' if data['shots'] == 1 else 's'}")
    if data.get("classes_per_way", 1) > 1:
        words.append(f"{data['classes_per_way']} classes a way")
    return ", ".join(words)


def anchor(record: Record) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in f"{record.target} {record.cell}".lower())


def _commit(record: Record) -> str:
    known = re.fullmatch(r"[0-9a-f]{7,40}\+?", record.commit)
    return f"commit `{record.commit}`" if known else f"commit {prose(record.commit)}"


def provenance(record: Record) -> str:
    """How a cell was measured: its command, machine, date, commit."""
    origin = (
        "Written by the runs themselves."
        if record.origin == "run"
        else "Transcribed from what was written down before results were kept as records."
    )
    times = [run.seconds for run in record.runs if run.seconds is not None]
    facts = [
        f"{record.date}, {_commit(record)}, {prose(record.device)}, {record.threads} "
        f"thread{'s' if record.threads != 1 else ''} a run"
        + (f", {statistics.mean(times) / 60:.1f} minutes of training a run" if times else "")
        + f". {origin}"
    ]
    if record.note:
        facts.append(prose(record.note))
    text = f"`make reproduce-{record.target.split('/')[0]}` makes it again, or, with `seed=0, 1, ...`:"
    return f'<span id="{anchor(record)}"></span>\n' + folded(
        f"{record.cell} ({record.target})",
        "\n\n".join([*facts, text, shell(record.command)]),
    )
