"""The tables of a comparison for a terminal, in Markdown and in LaTeX."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from metarun.plain_text import one_line
from metarun.report.compare import Entry, Paired, Rates, Setting, Table
from metarun.report.console import is_unicode
from metarun.report.numbers import estimate, origin
from metarun.report.widths import fit
from metarun.run_folder import Run

Panels = Mapping[Setting, Sequence[Rates]]
Lines = list[tuple[str, list[Entry | None]]]  # name and entries of each row
Layout = tuple[str, list[str], Lines]

TIE, BAD = "~", "†"
MOST_COLUMNS = 6
SHORT = 24  # characters of a name that is never broken into lines


def published(entry: Entry) -> str:
    """`48.70% ± 1.84`; empty if no figure is named."""
    paper = entry.paper
    return estimate(entry.metric, paper["value"], paper.get("ci95")) if paper else ""


def bad(entry: Entry) -> str:
    """`2 of 3 diverged`; empty if all runs completed."""
    return ", ".join(f"{count} of {len(entry.runs)} {status}" for status, count in entry.bad.items())


def setting_names(settings: Sequence[Setting]) -> list[str]:
    """`data=omniglot, shots=5`: of a key only the last part, unless another key ends in it."""
    keys = dict.fromkeys(key for setting in settings for key, _ in setting)
    last = [key.rpartition(".")[2] for key in keys]
    short = {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}
    return [", ".join(f"{short[key]}={setting_value(value)}" for key, value in setting) for setting in settings]


def setting_value(value: Any) -> str:
    """A value in a setting."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def cell(entry: Entry | None, named: bool = False, between: str = " ") -> str:
    """The text of an entry, without its typeface.

    Args:
        named: with the metric, where a table has several.
        between: its result and the number of runs that have none.
    """
    if entry is None:
        return ""
    metric = f"{entry.metric} " if named and entry.metric else ""
    words = [metric + estimate(entry.metric, entry.mean, entry.ci95) + (f" {TIE}" if entry.tie else "")]
    return between.join([*(words if entry.mean is not None else []), *([f"{BAD} {bad(entry)}"] if entry.bad else [])])


def legend(table: Table) -> list[str]:
    """The meaning of each sign that occurs in the table."""
    entries = list(table.entries.values())
    lines = []
    counts = {len(entry.values) for entry in entries if entry.mean is not None and entry.over == "seeds"}
    if counts:
        lines.append("± is half the 95 % interval of the mean over seeds (Student's t)")
    if any(entry.over == "tasks" for entry in entries):
        lines.append("± of a single seed is half the 95 % interval over its held-out tasks")
    if any(entry.best for entry in entries):
        lines.append("bold: the best of its setting")
    if any(entry.tie for entry in entries):
        lines.append(f"{TIE}: its interval overlaps the best's")
    if any(entry.bad for entry in entries):
        lines.append(f"{BAD}: some runs did not complete; the mean is over the others, and is not compared")
    papers = [entry.paper for entry in entries if entry.paper]
    lines += [f"published: {words}" for words in dict.fromkeys(map(origin, papers)) if words]
    if table.left_out:
        lines.append(f"{table.left_out} runs are left out: newer ones of the same configuration and seed count")
    return lines


def rows(table: Table) -> Layout:
    """Heading of the first column, headings of the others, and the rows.

    Rows are learners and columns settings. It is turned if there are more settings than learners, so that the table
    fits a terminal; with many of both a row is a learner at a setting.
    """
    names = setting_names(table.settings)
    if len(table.settings) <= min(MOST_COLUMNS, len(table.algos)) or len(table.settings) == 1:
        heads = names if any(names) else [metric_of(table) or "result"]
        return "learner", heads, [(algo, table.row(algo)) for algo in table.algos]
    if len(table.algos) <= MOST_COLUMNS:
        columns = [table.row(algo) for algo in table.algos]
        return "setting", table.algos, [(name, [column[at] for column in columns]) for at, name in enumerate(names)]
    return one_by_one(table)


def one_by_one(table: Table) -> Layout:
    """`rows` of a learner at a setting each: the narrowest."""
    entries: list[tuple[str, list[Entry | None]]] = []
    names = setting_names(table.settings)
    for setting, name in zip(table.settings, names, strict=True):
        for algo in table.algos:
            if entry := table.entries.get((algo, setting)):
                entries.append((f"{algo}, {name}" if name else algo, [entry]))
    return "learner", [metric_of(table) or "result"], entries


def metric_of(table: Table) -> str:
    """The metric of all entries; empty if there are several."""
    metrics = {entry.metric for entry in table.entries.values() if entry.metric}
    return metrics.pop() if len(metrics) == 1 else ""


def printable(text: str, console: Console) -> str:
    """A text as a terminal can show it: in ASCII, if that is all."""
    if is_unicode(console):
        return text
    return text.replace("±", "+/-").replace(BAD, "!").encode("ascii", "replace").decode()


def rich_table(table: Table, console: Console) -> RichTable:
    """The table for a terminal: the best in bold, the published figure below in grey.

    A row is a learner at a setting if the table of `rows` would be too wide.
    """
    for layout in (rows(table), one_by_one(table)):
        output = rich_layout(*layout, not metric_of(table), console)
        short = max((len(name) for name, _ in layout[2]), default=0) <= SHORT
        if fit(output, console, range(0 if short else 1, len(output.columns))):
            break
    return output


def rich_layout(first: str, heads: Sequence[str], lines: Lines, named: bool, console: Console) -> RichTable:
    """A layout for a terminal; `named`: each result with its metric."""
    output = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    output.add_column(first, style="bold", overflow="fold")
    for head in heads:
        output.add_column(Text(printable(head, console).replace(", ", "\n")), justify="right", overflow="fold")
    for name, entries in lines:
        output.add_row(Text(printable(name, console)), *(rich_cell(entry, named, console) for entry in entries))
    return output


def rich_cell(entry: Entry | None, named: bool, console: Console) -> Text:
    """An entry for a terminal."""
    if entry is None:
        return Text("")
    style = "bold green" if entry.best else "red" if entry.bad else ""
    text = Text(printable(cell(entry, named, "\n"), console), style)
    if figure := published(entry):
        text.append(printable(f"\npublished {figure}", console), "dim not bold")
    return text


ROBUSTNESS = ("learner", "decades within 10% of the best", "best rate", "rates")


def robustness_table(panels: Panels, console: Console) -> RichTable:
    """Robustness of each learner at each setting, for a terminal."""
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, title="robustness to the inner learning rate")
    table.title_justify = "left"
    for head in ROBUSTNESS:
        table.add_column(head, justify="left" if head == "learner" else "right", overflow="fold")
    for label, *words in robustness_rows(panels):
        table.add_row(Text(label), *words)
    fit(table, console, (1, 2, 3))
    return table


def robustness_rows(panels: Panels) -> list[list[str]]:
    """The cells under the headings `ROBUSTNESS`, a row a learner at a setting."""
    return [
        [
            f"{line.algo}, {name}" if name else line.algo,
            number_or_dash(line.width),
            number_or_dash(line.best_rate),
            f"{line.rates[0]:.3g} to {line.rates[-1]:.3g}",
        ]
        for name, lines in named(panels)
        for line in lines
    ]


def named(panels: Panels) -> list[tuple[str, Sequence[Rates]]]:
    """Each panel with the name of its setting."""
    return list(zip(setting_names(list(panels)), panels.values(), strict=True))


def number_or_dash(value: float | None) -> str:
    """A number to three digits; a dash for None."""
    return "-" if value is None else f"{value:.3g}"


def print_comparison(table: Table, panels: Panels, console: Console) -> None:
    """Print the table, the meaning of its signs, and robustness."""
    console.print(rich_table(table, console))
    for line in legend(table):
        print_note(line, console)
    if panels:
        console.print(robustness_table(panels, console))


def paired_table(first: Run, others: Sequence[tuple[Run, Paired | str]], console: Console) -> RichTable:
    """Each run against the first, for a terminal: the difference with its interval, or why there is none."""
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(f"against {first.name}", "bold"))
    table.title_justify = "left"
    refused = any(isinstance(result, str) for _, result in others)
    for head in ("run", "difference", "p", "tasks", *(["not compared"] if refused else [])):
        table.add_column(head, justify="left" if head in ("run", "not compared") else "right", overflow="fold")
    for run, result in others:
        if isinstance(result, str):
            table.add_row(Text(run.name), "", "", "", Text(result, "red"))
        else:
            difference = printable(estimate(first.metric, result.difference, result.ci95), console)
            table.add_row(Text(run.name), difference, f"{result.p:.2g}", f"{result.tasks:,}")
    fit(table, console, (1, 2, 3))
    return table


def print_note(text: str, console: Console) -> None:
    """Print a sentence in grey, in which no number is parted from its `±` or its `%`."""
    glued = re.sub(r" %", "\u00a0%", re.sub(r"± ", "±\u00a0", text))  # textwrap breaks no line there
    lines = textwrap.wrap(glued, console.width, break_on_hyphens=False)
    console.print(Text(printable("\n".join(lines).replace("\u00a0", " "), console), "dim"), soft_wrap=True)


# ------------------------------------------------------------------------------------------ Markdown and LaTeX


def markdown(table: Table, panels: Panels) -> str:
    """The content of `table.md`: the table, the meaning of its signs, and robustness."""
    first, heads, lines = rows(table)
    text = [row_of([first, *map(escaped_markdown, heads)]), row_of(["---", *["---:"] * len(heads)])]
    named = not metric_of(table)
    text += [
        row_of([escaped_markdown(name), *(markdown_cell(entry, named) for entry in entries)]) for name, entries in lines
    ]
    text += ["", *(f"- {escaped_markdown(line)}" for line in legend(table))]
    if panels:
        text += ["", row_of(ROBUSTNESS), row_of(["---", "---:", "---:", "---:"])]
        text += [row_of([escaped_markdown(label), *words]) for label, *words in robustness_rows(panels)]
    return "\n".join(text) + "\n"


MARKDOWN = frozenset("\\|*_`~<>[]&#!$")


def row_of(words: Sequence[str]) -> str:
    """A row in Markdown."""
    return "| " + " | ".join(words) + " |"


def escaped_markdown(text: str) -> str:
    """Text that Markdown shows as it is, in one line: neither a column, nor formatting, nor HTML."""
    return "".join(f"\\{letter}" if letter in MARKDOWN else letter for letter in one_line(text))


def markdown_cell(entry: Entry | None, named: bool) -> str:
    """An entry in Markdown."""
    if entry is None:
        return ""
    text = escaped_markdown(cell(entry, named)).replace(f"\\{TIE}", TIE)
    if entry.best:
        text = f"**{text}**"
    return f"{text} (published {escaped_markdown(published(entry))})" if entry.paper else text


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    # After the end of a row these begin an argument of it.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
}
LATEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"}


def latex(table: Table) -> str:
    """The content of `table.tex`: a tabular for booktabs."""
    first, heads, lines = rows(table)
    text = ["% \\usepackage{booktabs}", "\\begin{tabular}{l" + "r" * len(heads) + "}", "\\toprule"]
    text += [latex_row([first, *heads]), "\\midrule"]
    named = not metric_of(table)
    for name, entries in lines:
        cells = (latex_cell(entry, named) for entry in entries)
        text.append(" & ".join([escaped_latex(name), *cells]) + r" \\")
    return (
        "\n".join([*text, "\\bottomrule", "\\end{tabular}", *(f"% {one_line(line)}" for line in legend(table))]) + "\n"
    )


def latex_row(words: Sequence[str]) -> str:
    """A row in LaTeX."""
    return " & ".join(map(escaped_latex, words)) + r" \\"


def escaped_latex(text: str) -> str:
    """Text that LaTeX shows as it is, in one line; of dashes it would make longer ones."""
    return re.sub("-(?=-)", "-{}", "".join(LATEX.get(letter, letter) for letter in one_line(text)))


def latex_cell(entry: Entry | None, named: bool) -> str:
    """An entry in LaTeX."""
    if entry is None:
        return ""
    text = escaped_latex(cell(entry, named)).replace(escaped_latex(TIE), r"$\sim$")
    if entry.best:
        text = f"\\textbf{{{text}}}"
    return f"{text} ({escaped_latex(published(entry))})" if entry.paper else text
