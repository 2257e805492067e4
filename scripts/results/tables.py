"""Tables of records, as Markdown: what a table says of each record, and what it says of all of them together.

A table is data (scripts/results/definitions.py): rows of texts and of entries, each a record and how it is shown.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from metarun.run_folder import leaves
from scripts.results.records import Measure, Published, Record, SeedRun

WIDTH = 120  # of prose
Records = Mapping[str, Record]  # by `TARGET/CELL`


@dataclass(frozen=True)
class Column:
    """One thing that a table says of a record.

    Attributes:
        title: the column's head.
        show: the record's entry.
        says: keys of the configuration that the entry says, so that rows may differ in them.
    """

    title: str
    show: Callable[[Record], str]
    says: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A record, `TARGET/CELL`, shown by a column."""

    record: str
    column: Column


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: by which the documents call it, `<!-- table: NAME -->`.
        caption: what is compared, and what the rows differ in that no column says.
        head: titles of the columns.
        rows: texts and entries, as many as there are titles.
        apart: keys of the configuration in which rows differ and that no column says, each with the words of the
            caption that say so.
    """

    name: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Entry]]
    apart: Mapping[str, str] = field(default_factory=dict)

    def entries(self) -> list[Entry]:
        """All entries, row by row."""
        return [cell for row in self.rows for cell in row if isinstance(cell, Entry)]


def by_name(records: Iterable[Record]) -> Records:
    """Records by `TARGET/CELL`."""
    return {f"{record.target}/{record.cell}": record for record in records}


# ------------------------------------------------------------------------------------------------------ rendering


def render(table: Table, records: Records) -> str:
    """The caption, what all rows share, and the table.

    Raises:
        KeyError: there is no record of that name; the message says which.
    """
    lines = [list(table.head), ["---"] * len(table.head)]
    for row in table.rows:
        lines.append([cell if isinstance(cell, str) else cell.column.show(_record(cell, records)) for cell in row])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    caption = f"{table.caption} {shared(records_of(table, records))}"
    wrapped = textwrap.fill(caption, WIDTH, break_long_words=False, break_on_hyphens=False)
    return f"{wrapped}\n\n{text}"


def records_of(table: Table, records: Records) -> list[Record]:
    """The records of a table, each once."""
    return [_record(entry, records) for entry in {entry.record: entry for entry in table.entries()}.values()]


def _record(entry: Entry, records: Records) -> Record:
    if entry.record not in records:
        raise KeyError(f"there is no record {entry.record}")
    return records[entry.record]


SHARED = {  # what is said of a configuration where all records have the same
    "data.partition": "partition `{}`",
    "backbone.filters": "{} filters",
    "data.train_queries": "training queries (of each class): {}",
    "run.meta_batch_size": "tasks an outer step: {}",
}


def shared(records: Sequence[Record]) -> str:
    """What all records of a table have in common, when and where they were measured."""
    flat = [dict(leaves(record.config or {})) for record in records]
    parts = []
    for key, text in SHARED.items():
        values = {str(config.get(key)) for config in flat}
        if len(values) == 1 and values != {"None"}:
            parts.append(text.format(*values))
    for values, text in (
        ({f"{record.iterations:,}" for record in records}, "{} iterations"),
        ({f"{record.tasks}" for record in records}, "{} test tasks"),
        ({seeds_of(record) for record in records}, "{}"),
        ({f"{record.threads}" for record in records}, "threads: {}"),
    ):
        if len(values) == 1:
            parts.append(text.format(*values))
    first, last = min(record.date for record in records), max(record.date for record in records)
    commits = dict.fromkeys(commit for record in records for commit in record.commit.split(", "))
    when = first if first == last else f"{first} to {last}"
    where = " and ".join(dict.fromkeys(record.device for record in records))
    common = f"All rows: {', '.join(parts)}. " if parts else ""
    return f"{common}Measured {when} on {where}; commit {', '.join(commits)}."


def seeds_of(record: Record) -> str:
    """`seed 0`, `seeds 0, 1, 2`."""
    seeds = [str(run.seed) for run in record.runs if run.seed is not None]
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}" if seeds else "three seeds"


def unsaid(table: Table, records: Records) -> list[str]:
    """Keys of the configuration in which rows of a table differ, though neither a column nor the caption says so."""
    said = {key for entry in table.entries() for key in entry.column.says}
    said |= {key for key, words in table.apart.items() if words in table.caption}
    differing = []
    flat = [_compared(record) for record in records_of(table, records)]
    for key in sorted({key for config in flat for key in config}):
        values = {str(config[key]) for config in flat if key in config}
        if len(values) > 1 and not any(key == name or key.startswith(f"{name}.") for name in said):
            differing.append(key)
    return differing


def _compared(record: Record) -> dict[str, object]:
    """What rows have to share, tasks, network and length; what a learner is, and its rates, is what they compare."""
    config = {
        key: value for key, value in leaves(record.config or {}) if key.startswith(("data.", "backbone.", "run."))
    }
    dropped: tuple[str, ...] = (
        "data._target_",
        "backbone._target_",
        "run.validate_every",
        "run.val_tasks",
        "run.log_every",
    )
    dropped += ("run.checkpoint_seconds", "run.curve_steps", "run.evaluate", "run.init_from", "data.instances")
    dropped += ("data.batch_size", "data.pair_batch_size")  # of streams that the others do not have
    config = {key: value for key, value in config.items() if key not in dropped}
    config |= {"run.iterations": record.iterations, "run.eval_tasks": record.tasks}
    return config


# -------------------------------------------------------------------------------------------------------- columns


def rounded(value: float | None) -> str:
    """A number with three digits or so."""
    if value is None or not math.isfinite(value):
        return "diverged"
    size = abs(value)
    return f"{value:.3g}" if size >= 100 else f"{value:.2f}" if size >= 1 else f"{value:.3f}"


def two_digits(value: float) -> str:
    """A half-interval with two digits."""
    return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}" if value else "0"


def percent(decimals: int) -> Callable[[float | None], str]:
    """A fraction in %, with so many decimals."""
    return lambda value: "diverged" if value is None else f"{100 * value:.{decimals}f}"


Number = Callable[[float | None], str]


def _seed(run: SeedRun, number: Number) -> str:
    if run.ci95 is None or run.mean is None:
        return number(run.mean)
    return f"{number(run.mean)} ± {two_digits(run.ci95) if number is rounded else number(run.ci95)}"


def _figure(measure: Measure, number: Number) -> str:
    if len(measure.runs) == 1:
        return f"**{_seed(measure.runs[0], number)}**"
    mean = f"**{number(measure.mean)}**"
    return f"{mean} ({', '.join(_seed(run, number) for run in measure.runs)})" if measure.runs else mean


def figure(title: str, number: Number = rounded, metric: str | None = None, step: int | None = None) -> Column:
    """The headline, or another figure: the mean over seeds in bold, and each seed with its interval over tasks."""

    def show(record: Record) -> str:
        try:
            return _figure(record.measure(metric or record.metric, step), number)
        except KeyError:
            return ""

    return Column(title, show)


def mean(title: str, number: Number = rounded, metric: str | None = None, step: int | None = None) -> Column:
    """The mean over seeds alone."""

    def show(record: Record) -> str:
        try:
            return number(record.measure(metric or record.metric, step).mean)
        except KeyError:
            return ""

    return Column(title, show)


def _printed(published: Published | None, number: Number) -> str:
    if published is None:
        return ""
    interval = "" if published.ci95 is None else f" ± {number(published.ci95)}"
    return f"{number(published.value)}{interval} ({published.source})"


def published(number: Number = rounded) -> Column:
    """What a paper prints, with its source."""
    return Column("published", lambda record: _printed(record.published, number))


def setting(title: str, key: str) -> Column:
    """A value of the configuration."""
    return Column(title, lambda record: str(dict(leaves(record.config or {})).get(key, "")), (key,))


def _task(record: Record) -> str:
    data = (record.config or {})["data"]
    return f"{data['ways']}-way {data['shots']}-shot"


STREAMS = {"siamese": "{n} × {pair_batch_size} pairs", "pretrain": "{n} × {batch_size} images"}
STREAMS |= {"baseline": STREAMS["pretrain"], "baseline_pp": STREAMS["pretrain"]}
UNTRAINED = ("nearest_centroid", "scratch", "tuned_optimizer")


def _training_tasks(record: Record) -> str:
    """What an outer step is made of, by the learner's stream."""
    config = record.config or {}
    data, tasks = config["data"], config["run"]["meta_batch_size"]
    if record.algo in UNTRAINED:
        return "none"
    if record.algo in STREAMS:
        return STREAMS[record.algo].format(n=tasks, **data)
    shots = data["train_shots"]
    shots = f"{shots[0]} to {shots[1]}" if isinstance(shots, list) else shots
    queries = data["train_queries"]
    return f"{tasks} × {data['train_ways']}-way {shots}-shot, {queries} quer{'y' if queries == 1 else 'ies'}"


def _seconds(record: Record) -> str:
    seconds = [run.seconds for run in record.runs if run.seconds is not None]
    if not seconds or record.algo in UNTRAINED:
        return ""
    low, high = min(seconds), max(seconds)
    return f"{low:,.0f} s" if round(low) == round(high) else f"{low:,.0f} to {high:,.0f} s"


TASK = Column("task", _task, ("data.ways", "data.shots", "data.queries"))
SIZES = ("data.train_ways", "data.train_shots", "data.train_queries", "run.meta_batch_size")
TRAINING_TASKS = Column("an outer step", _training_tasks, SIZES)
ITERATIONS = Column("iterations", lambda record: f"{record.iterations:,}", ("run.iterations",))
SECONDS = Column("training", _seconds)
NOTE = Column("note", lambda record: record.note)
INDUCTIVE = figure("inductive", percent(2), "accuracy_inductive")


# -------------------------------------------------------------------------------------------------------- builders


def listed(name: str, caption: str, rows: Mapping[str, str], columns: Sequence[Column], first: str = "learner",
           apart: Mapping[str, str] | None = None) -> Table:  # fmt: skip
    """A table with a row for each record.

    Args:
        name, caption, apart: as in `Table`.
        rows: each row's title, and its record.
        columns: what is said of each.
        first: head of the titles.
    """
    lines: list[list[str | Entry]] = [
        [title, *(Entry(record, column) for column in columns)] for title, record in rows.items()
    ]
    return Table(name, caption, [first, *(column.title for column in columns)], lines, apart or {})


def crossed(name: str, caption: str, rows: Mapping[str, str], columns: Mapping[str, str],
            record: Callable[[str, str], str], column: Column, first: str = "learner",
            apart: Mapping[str, str] | None = None) -> Table:  # fmt: skip
    """A table with a record for each row and column.

    Args:
        name, caption, apart: as in `Table`.
        rows, columns: each one's title, and what `record` takes for it.
        record: the record of a row and a column.
        column: how it is shown.
        first: head of the rows' titles.
    """
    lines: list[list[str | Entry]] = [
        [title, *(Entry(record(row, key), column) for key in columns.values())] for title, row in rows.items()
    ]
    return Table(name, caption, [first, *columns], lines, apart or {})
