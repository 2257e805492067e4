"""`metarun-report PATH...`: compare runs on the terminal and as an HTML page."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metarun.plain_text import one_line
from metarun.report import rows, tables
from metarun.report.compare import METHOD, Paired, over_rates, paired, tabulate
from metarun.report.console import PlainConsole
from metarun.report.numbers import estimate
from metarun.report.widths import fit
from metarun.run_folder import STATUSES, Run, read_runs

MOST_COLUMNS = 4  # runs beside each other
ABOUT = """\
Compares runs: a table of learners by settings (mean over seeds), robustness to the inner learning rate where it was
varied, and runs that are missing or broken. PATH is the folder of a run or of a multirun, or any folder above them.
"""
EXAMPLES = """\
examples:
  metarun-report outputs/sweeps/2026-11-21_10-00-00-123456
  metarun-report outputs --html report.html
  metarun-report outputs --where 'algo=maml data.shots=1' --csv runs.csv
  metarun-report outputs --minutes-to 0.95 --differences
  metarun-report outputs --compare maml_seed=0 mtnet_seed=0    # a paired test on the held-out tasks that both share
"""


def parser() -> argparse.ArgumentParser:
    """The command line of `metarun-report`."""
    arguments = argparse.ArgumentParser(
        "metarun-report", description=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="folders of runs")
    arguments.add_argument(
        "--compare",
        nargs="+",
        metavar="RUN",
        help="test the first of these runs against each of the others, task by task; a RUN is a name in the list, or "
        "its end, or another part of it that no other name has",
    )
    arguments.add_argument("--html", type=Path, metavar="FILE", help="write one page that opens without a network")
    arguments.add_argument(
        "--where",
        action="append",
        metavar="'KEY=VALUE ...'",
        help="only runs with these settings: algo, data, backbone, seed, status or a key of the configuration, as "
        "data.shots=1; != for other ones; * and ? for letters",
    )
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write every run with its result and settings")
    arguments.add_argument("--csv", type=Path, metavar="FILE", help="write the same as a table")
    arguments.add_argument(
        "--minutes-to", type=float, metavar="TARGET", help="minutes of training until the validation metric is there"
    )
    arguments.add_argument("--differences", action="store_true", help="show the settings in which the runs differ")
    arguments.add_argument("--list", action="store_true", help="list every run, including those that completed")
    return arguments


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the console script. Exit status 0, or 2 if there is nothing to report or a name is unknown."""
    options = parser().parse_intermixed_args(arguments)
    try:
        report(options)
    except (OSError, LookupError, ValueError, ImportError) as error:
        why = error.args[0] if isinstance(error, LookupError) else error
        print(f"metarun-report: {one_line(str(why))}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def report(options: argparse.Namespace) -> None:
    """Print the comparison; write the files that are asked for.

    Args:
        options: of `parser`.

    Raises:
        OSError: a path holds no run, or a file cannot be written.
        LookupError: a name to compare is that of no run, or of several; or no run fits `--where`.
        ValueError: there is a single run to compare, or a condition cannot be read.
    """
    runs = read_runs(options.paths)
    if options.where:
        runs = rows.select(runs, options.where)
    chosen = [find(name, runs) for name in options.compare or []]
    if len(chosen) == 1:
        raise ValueError("--compare needs at least two runs")
    console = PlainConsole(soft_wrap=False)
    table = tabulate(runs)
    if table.entries:
        tables.print_comparison(table, over_rates(table), console)
    everything = options.list or options.minutes_to is not None or not table.entries
    listed = runs if everything else [run for run in runs if run.status != "completed"]
    if listed:
        console.print(list_of(listed, console, options.minutes_to))
    if options.differences:
        show_differences(console, runs)
    if chosen:
        show_comparison(console, chosen)
    console.print(f"{len(runs)} runs: {statuses(runs)}", highlight=False)
    write_files(options, runs)
    for path in filter(None, (options.html, options.json, options.csv)):
        console.print(Text(str(path)), soft_wrap=True, highlight=False)


def write_files(options: argparse.Namespace, runs: Sequence[Run]) -> None:
    """Write the page, and the runs as data.

    Raises:
        OSError: one cannot be written.
    """
    if options.html is not None:
        from metarun.report.page.build import write_page

        write_page(runs, options.html)
    if options.json is not None:
        rows.write_runs_json(runs, options.json, options.minutes_to)
    if options.csv is not None:
        rows.write_runs_csv(runs, options.csv, options.minutes_to)


def show_differences(console: Console, runs: Sequence[Run]) -> None:
    """The settings in which runs differ, a row each, a column for every run; too many columns: the values in one."""
    found = rows.differences(runs)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    wide = len(runs) <= MOST_COLUMNS
    for head in ("setting", *((run.name for run in runs) if wide else ("values",))):
        table.add_column(Text(one_line(head)), overflow="fold")
    for key, values in found.items():
        shown = values if wide else [", ".join(dict.fromkeys(value or "(none)" for value in values))]
        table.add_row(Text(key), *(Text(one_line(value)) for value in shown))
    console.print(table if found else f"{len(runs)} runs, no setting differs")


def find(name: str, runs: Sequence[Run]) -> Run:
    """The run with a name; else the one whose name ends in it, at the beginning of a word if possible; else starts
    with it, or else has it in it.

    Raises:
        LookupError: there is none, or several.
    """
    name = name.rstrip("/")
    word = re.compile(rf"(?<![^\W_]){re.escape(name)}\Z")
    tests: tuple[Callable[[Run], object], ...] = (
        lambda run: run.name == name or str(run.folder) == name,
        lambda run: f"/{run.name}".endswith(f"/{name}") or run.folder.resolve() == Path(name).resolve(),
        lambda run: word.search(run.name),
        lambda run: run.name.endswith(name),
        lambda run: run.name.startswith(name),
        lambda run: name in run.name,
    )
    for test in tests:
        matches = [run for run in runs if test(run)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise LookupError(f"{name} is the name of {len(matches)} runs: {some(matches)}")
    raise LookupError(f"there is no run {name}. Runs: {some(runs)}")


def some(runs: Sequence[Run]) -> str:
    """The names of the first five runs."""
    return ", ".join(run.name for run in runs[:5]) + (", ..." if len(runs) > 5 else "")


def statuses(runs: Sequence[Run]) -> str:
    """`210 completed, 3 diverged`."""
    counts = Counter(run.status for run in runs)
    return ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])


def list_of(runs: Sequence[Run], console: Console, target: float | None = None) -> Table:
    """One line a run: its result, or why it has none; the minutes to a target, where there is one."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    problems = any(run.mean is None for run in runs)
    timed = [] if target is None else [f"minutes to {target:g}"]
    for head in ("run", "learner", "data", "seed", "status", "result", *timed, *(["problem"] if problems else [])):
        table.add_column(head, overflow="fold")
    for run in runs:
        has_mean = run.mean is not None
        value = f"{run.metric} {estimate(run.metric, run.mean, run.result.get('ci95'))}" if has_mean else ""
        style = "" if run.status == "completed" else "red"
        words = (run.name, run.algo, run.data, "" if run.seed is None else str(run.seed))
        cells = [Text(run.status, style), Text(tables.printable(value, console))]
        if target is not None:
            minutes = rows.minutes_to(run, target)
            cells.append(Text("never" if minutes is None else f"{minutes:.1f}"))
        cells += [Text("" if has_mean else run.why)] if problems else []
        table.add_row(*map(Text, words), *cells)
    fit(table, console, (3, 4, 5))
    return table


def show_comparison(console: Console, chosen: Sequence[Run]) -> None:
    """Paired tests of the first run against each of the others."""
    results: list[tuple[Run, Paired | str]] = []
    for run in chosen[1:]:
        try:
            results.append((run, paired(chosen[0], run)))
        except ValueError as error:
            results.append((run, str(error)))
    console.print(tables.paired_table(chosen[0], results, console))
    about = f"difference: run minus {chosen[0].name}, ± half the 95 % interval; {METHOD}"
    tables.print_note(about, console)
    if len(results) > 1:
        tables.print_note("p is not corrected for the number of comparisons", console)
