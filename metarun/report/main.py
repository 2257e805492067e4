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
from metarun.report import tables
from metarun.report.compare import METHOD, Paired, over_rates, paired, tabulate
from metarun.report.console import PlainConsole
from metarun.report.numbers import estimate
from metarun.report.widths import fit
from metarun.run_folder import STATUSES, Run, read_runs

ABOUT = """\
Compares runs: a table of learners by settings (mean over seeds), robustness to the inner learning rate where it was
varied, and runs that are missing or broken. PATH is the folder of a run or of a multirun, or any folder above them.
"""
EXAMPLES = """\
examples:
  metarun-report outputs/sweeps/2026-11-21_10-00-00-123456
  metarun-report outputs --html report.html
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
    arguments.add_argument("--list", action="store_true", help="list every run, including those that completed")
    return arguments


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the console script. Exit status 0, or 2 if there is nothing to report or a name is unknown."""
    options = parser().parse_intermixed_args(arguments)
    try:
        report(options.paths, options.compare or [], options.html, options.list)
    except (OSError, LookupError, ValueError, ImportError) as error:
        why = error.args[0] if isinstance(error, LookupError) else error
        print(f"metarun-report: {one_line(str(why))}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def report(paths: Sequence[Path], compared: Sequence[str], page: Path | None, everything: bool) -> None:
    """Print the comparison; write the page.

    Args:
        paths: folders of runs.
        compared: names of the runs to test against the first of them; none: no test.
        page: the page to write; None: no page.
        everything: whether to list runs that completed, too.

    Raises:
        OSError: a path holds no run, or the page cannot be written.
        LookupError: a name to compare is that of no run, or of several.
        ValueError: there is a single run to compare.
    """
    runs = read_runs(paths)
    chosen = [find(name, runs) for name in compared]
    if len(chosen) == 1:
        raise ValueError("--compare needs at least two runs")
    console = PlainConsole(soft_wrap=False)
    table = tabulate(runs)
    if table.entries:
        tables.print_comparison(table, over_rates(table), console)
    listed = runs if everything or not table.entries else [run for run in runs if run.status != "completed"]
    if listed:
        console.print(list_of(listed, console))
    if chosen:
        show_comparison(console, chosen)
    console.print(f"{len(runs)} runs: {statuses(runs)}", highlight=False)
    if page is not None:
        from metarun.report.page.build import write_page

        write_page(runs, page)
        console.print(Text(str(page)), soft_wrap=True, highlight=False)


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


def list_of(runs: Sequence[Run], console: Console) -> Table:
    """One line a run: its result, or why it has none."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    problems = any(run.mean is None for run in runs)
    for head in ("run", "learner", "data", "seed", "status", "result", *(["problem"] if problems else [])):
        table.add_column(head, overflow="fold")
    for run in runs:
        has_mean = run.mean is not None
        value = f"{run.metric} {estimate(run.metric, run.mean, run.result.get('ci95'))}" if has_mean else ""
        style = "" if run.status == "completed" else "red"
        words = (run.name, run.algo, run.data, "" if run.seed is None else str(run.seed))
        cells = (Text(run.status, style), Text(tables.printable(value, console)), Text("" if has_mean else run.why))
        table.add_row(*map(Text, words), *cells[: 3 if problems else 2])
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
