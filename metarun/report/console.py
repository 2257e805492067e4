"""Terminal output of a run: a progress bar while it trains, tables of its result at the end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from metarun.plain_text import visible
from metarun.report.numbers import duration, estimate, is_percent, origin

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.2
SILENCE_SECONDS = 60  # without a terminal: a line at least so often, as far as the program comes by
BRIEF_SECONDS = 10  # and none so soon after another one
MOST_ROWS = 21  # of the table of adaptation steps, where it is shown in full
FEW_STEPS = {0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}  # of a longer one


class PlainConsole(Console):
    """A console on which the texts of others are text only: names of folders, fields of files, errors.

    There is neither rich's markup in them, nor a control character that the terminal would act on, nor a character that
    its encoding lacks.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is shown of an object, where rich makes it; its own control codes are no text."""
        for segment in super().render(renderable, options):
            text = segment.text
            if segment.control or (text.isascii() and text.isprintable()):
                yield segment
                continue
            shown_text = visible(text).encode(self.encoding, "replace").decode(self.encoding, "replace")
            yield Segment(shown_text, segment.style)


class Speed(ProgressColumn):
    """Outer steps a second, over the last half minute."""

    def render(self, task: Task) -> Text:
        """`5.12 it/s`; empty before the first step."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g} it/s" if speed < 100 else f"{speed:.0f} it/s")


class Progress:
    """A progress bar over the outer steps; a context manager. If the output is no terminal, lines in the log instead.

    `update` may be called at every step: it reads the clock and, five times a second, its arguments.

    Args:
        total: outer steps at the end.
        title: what is running, short.
        metric: name of the validation metric, which is shown as `val mse 0.51`.
        start: outer steps that a resumed run has done before; they do not count as speed.
        console: where to show it; None: the standard output.
    """

    def __init__(self, total: int, title: str, metric: str, start: int = 0, console: Console | None = None) -> None:
        self.console = console or PlainConsole()
        self.metric = metric
        self._shown = self.console.is_terminal
        self._next = 0.0
        self._title, self._total = title, total
        self._last: tuple[int, SupportsFloat | None] = (start, None)
        self._value: SupportsFloat | None = None
        self._note = ""
        self._told = (start, time.perf_counter())
        self._bar = RichProgress(
            TextColumn(
                "{task.description}",
                style="bold",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis"),
            ),
            BarColumn(bar_width=None),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[numbers]}", markup=False, table_column=Column(no_wrap=True)),
            Speed(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self.console,
            refresh_per_second=1 / REFRESH_SECONDS,
            expand=True,
        )
        self._task = self._bar.add_task(title, total=total, completed=start, numbers="")

    def __enter__(self) -> Progress:
        if self._shown:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._shown:
            self._paint()
            self._bar.stop()

    def begin(self, note: str = "") -> None:
        """Say that it begins, and what it does before the first update."""
        self._note = note
        if self._shown:
            self._paint()
        else:
            self._tell()

    def update(
        self,
        iteration: int,
        loss: SupportsFloat | None = None,
        metric: SupportsFloat | None = None,
        milestone: bool = False,
    ) -> None:
        """Record how far the run is.

        Args:
            iteration: outer steps done.
            loss: of this step; a tensor is read (which waits for an accelerator) only when it is shown.
            metric: a new value of the validation metric; None: the last one stays.
            milestone: worth a line in a log, if there was none just now.
        """
        if metric is not None:
            self._value = metric
        self._last, self._note = (iteration, loss), ""
        now = time.perf_counter()
        if self._shown and now >= self._next:
            self._paint()
            self._next = time.perf_counter() + REFRESH_SECONDS
        elif not self._shown and now - self._told[1] >= (BRIEF_SECONDS if milestone else SILENCE_SECONDS):
            self._tell()

    def _numbers(self) -> list[str]:
        """The last values as text."""
        loss = self._last[1]
        numbers = [self._note] if self._note else []
        numbers += [] if loss is None else [f"loss {float(loss):.4g}"]
        if self._value is not None:
            numbers.append(f"val {self.metric} {shown(self.metric, float(self._value))}")
        return numbers

    def _paint(self) -> None:
        """Show the last values."""
        self._bar.update(self._task, completed=self._last[0], numbers=" ".join(self._numbers()))

    def _tell(self) -> None:
        """Write a line to the log."""
        iteration, now = self._last[0], time.perf_counter()
        before, when = self._told
        speed = [f"{(iteration - before) / (now - when):.3g} it/s"] if iteration > before else []
        words = [f"{iteration:,} of {self._total:,}", *self._numbers(), *speed]
        log.info(f"{self._title}: {', '.join(words)}")
        self._told = (iteration, now)


def shown(metric: str, value: float | None, decimals: int = 1) -> str:
    """A value as text: accuracies in percent, the rest to four digits, a missing one as `-`."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{100 * value:.{decimals}f}%" if is_percent(metric) else f"{value:.4g}"


def print_result(result: Mapping[str, Any], folder: Path | None = None, console: Console | None = None) -> None:
    """Print the content of result.json: the headline with its interval, the published figure, the curve, the costs.

    Args:
        result: as in result.json; missing fields are left out. `paper.value` is in the metric's own unit
            (accuracies between 0 and 1).
        folder: the run's folder, printed last.
        console: where to print it; None: the standard output.
    """
    console = console or PlainConsole()
    # highlight=False: otherwise rich colours every number, and the headline no longer stands out.
    console.print(headline(result, console), highlight=False)
    for table in (curve_table(result, console), metrics_table(result, console)):
        if table.row_count:
            console.print(table, highlight=False)
    for words in filter(None, (durations(result), costs(result))):
        console.print(Text((" · " if is_unicode(console) else " | ").join(words), style="dim"))
    if folder is not None:
        console.print(Text(str(folder)), soft_wrap=True, highlight=False)


def print_line(result: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """Print a result of a multirun in one line: `completed  maml_seed=0  mse 0.524 ± 0.032  training 1:09`."""
    console = console or PlainConsole()
    status, metric = result.get("status", "completed"), result.get("metric")
    words = [Text(status, "green" if status == "completed" else "bold red"), Text(folder.name, "bold")]
    if metric and result.get("mean") is not None:
        words.append(Text(f"{metric} {interval(metric, result, console)}"))
    if result.get("error"):
        words.append(Text(str(result["error"])))
    if result.get("train_seconds") is not None:
        words.append(Text(f"training {duration(result['train_seconds'])}{together(result)}", "dim"))
    console.print(Text("  ").join(words), soft_wrap=True, highlight=False)


def headline(result: Mapping[str, Any], console: Console) -> Table:
    """Learner, data and setting, the headline metric, and why a run did not complete: two columns without lines."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row(f"{result.get('algo')} on {result.get('data')}", setting(result))
    status = result.get("status", "completed")
    if status != "completed":
        where = "" if result.get("iteration") is None else f"at iteration {result['iteration']:,}"
        why = ": ".join(word for word in (where, result.get("error")) if word)
        table.add_row(Text(status, "bold red"), Text(why))
    metric = result.get("metric")
    if metric and result.get("mean") is not None:
        value = interval(metric, result, console)
        tasks = f"   {result['tasks']:,} held-out tasks" if result.get("tasks") else ""
        table.add_row(metric, Text.assemble((value, "bold green"), (tasks, "dim")))
        paper = result.get("paper")
        if paper:
            source = f"   {words}" if (words := origin(paper)) else ""
            table.add_row(
                "published",
                Text.assemble(interval(metric, {"mean": paper["value"], **paper}, console), (source, "dim")),
            )
    return table


def setting(result: Mapping[str, Any]) -> str:
    """`5-way 1-shot, 15 queries, partition maml, seed 0`, without fields that the result does not have."""
    words = []
    if result.get("ways"):
        words.append(f"{result['ways']}-way {result.get('shots')}-shot")
    elif result.get("shots"):
        words.append(f"{result['shots']} shot{'s' if result['shots'] > 1 else ''}")
    forms = {"queries": "{} queries", "pairs": "{} pairs", "partition": "partition {}", "seed": "seed {}"}
    words += [form.format(result[key]) for key, form in forms.items() if result.get(key) is not None]
    return ", ".join(words)


def curve_table(result: Mapping[str, Any], console: Console) -> Table:
    """The headline metric after each number of adaptation steps; after a few of them if the curve is long.

    Empty for a learner that adapts at once, without steps: `metrics_table` has its headline.
    """
    table = estimates_table("adaptation steps", result.get("metric") or "")
    rows = result.get("steps") or []
    if len(rows) < 2:
        return table
    few = FEW_STEPS | {result.get("step"), len(rows) - 1}
    for row in rows:
        if len(rows) <= MOST_ROWS or row["step"] in few:
            add_estimate(table, str(row["step"]), result["metric"], row, console)
    return table


def metrics_table(result: Mapping[str, Any], console: Console) -> Table:
    """Every metric but a headline that `curve_table` has."""
    table = estimates_table("metric", "mean")
    if len(rows := result.get("steps") or []) == 1:
        add_estimate(table, result["metric"], result["metric"], rows[0], console)
    for metric, row in (result.get("metrics") or {}).items():
        add_estimate(table, metric, metric, row, console)
    return table


def estimates_table(first: str, mean: str) -> Table:
    """An empty table of estimates, with the headings of its first two columns."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, justify="right" if first == "adaptation steps" else "left")
    table.add_column(mean, justify="right")
    table.add_column("median", justify="right")
    return table


def add_estimate(table: Table, name: str, metric: str, row: Mapping[str, Any], console: Console) -> None:
    """Add a row: a name, the mean with its interval, the median; of one without a mean, why."""
    count = row.get("not_finite")
    mean = f"{count:,} tasks not finite" if count else interval(metric, row, console)
    table.add_row(name, mean, shown(metric, row.get("median"), 2))


def interval(metric: str, row: Mapping[str, Any], console: Console) -> str:
    """`95.12% ± 0.34` or `0.235 ± 0.012`: half the width of the 95 % interval, if there is one."""
    text = estimate(metric, row["mean"], row.get("ci95"), shown(metric, row["mean"], 2))
    return text if is_unicode(console) else text.replace("±", "+/-")


def durations(result: Mapping[str, Any]) -> list[str]:
    """Iterations, and how long training and the test took, without those that the result does not have."""
    forms = (
        ("iterations", lambda value: f"{value:,} iterations"),
        ("train_seconds", lambda value: f"training {duration(value)}, with validation"),
        ("test_seconds", lambda value: f"test {duration(value)}{together(result)}"),
    )
    return [form(result[key]) for key, form in forms if result.get(key) is not None]


def together(result: Mapping[str, Any]) -> str:
    """How many fused runs a time is of; nothing for a run alone."""
    replicas = result.get("replicas") or 1
    return f" ({replicas:,} runs together)" if replicas > 1 else ""


def costs(result: Mapping[str, Any]) -> list[str]:
    """Speed of the outer steps alone, memory and size, without those that the result does not have."""
    forms = (
        ("iterations_per_second", lambda value: f"{value:.3g} it/s" if value < 100 else f"{value:.0f} it/s"),
        ("peak_memory_mb", lambda value: f"peak memory {value:,.0f} MB"),
        ("parameters", lambda value: f"{value:,} parameters"),
    )
    return [form(result[key]) for key, form in forms if result.get(key) is not None]


def is_unicode(console: Console) -> bool:
    """Whether the output can show more than ASCII."""
    return console.encoding.lower().startswith("utf")
