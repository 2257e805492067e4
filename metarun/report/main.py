"""`metarun-report PATH...`: what finished runs say together, on the terminal and as a page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metarun.report import tables
from metarun.report.compare import METHOD, Paired, over_rates, paired, tabulate
from metarun.run_folder import STATUSES, Run, read_runs

ABOUT = """\
Compares runs: a table of learners by settings (mean over seeds), robustness to the inner learning rate where it was
varied, and what is missing or broken. PATH is a run's folder, a multirun's, or any folder above them.
"""
EXAMPLES = """\
examples:
  metarun-report outputs/sweeps/2026-11-21_10-00-00
  metarun-report outputs --html report.html
  metarun-report outputs --compare maml_seed=0 mtnet_seed=0    # a paired test on the held-out tasks that both share
"""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        "metarun-report", description=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="folders of runs")
    found.add_argument(
        "--compare",
        nargs="+",
        metavar="RUN",
        help="test the first of these runs against each other one, task by task; a RUN is a name of the list, or as "
        "much of its end or its beginning as tells it from the others",
    )
    found.add_argument("--html", type=Path, metavar="FILE", help="write one page that opens without a network")
    found.add_argument("--list", action="store_true", help="list every run, also those that completed")
    return found


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the console script. Exit status 0, or 2 where there is nothing to report or a name is unknown."""
    given = parser().parse_intermixed_args(arguments)
    try:
        report(given.paths, given.compare or [], given.html, given.list)
    except (OSError, LookupError, ValueError) as error:
        print(f"metarun-report: {error.args[0] if isinstance(error, LookupError) else error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def report(paths: Sequence[Path], compared: Sequence[str], page: Path | None, everything: bool) -> None:
    """Print the comparison; write the page.

    Raises:
        OSError: a path without runs, or a page that cannot be written.
        LookupError: a run to compare that is not there, or not one.
        ValueError: fewer than two runs to compare.
    """
    runs = read_runs(paths)
    chosen = [find(name, runs) for name in compared]
    if len(chosen) == 1:
        raise ValueError("--compare needs at least two runs")
    console = Console(soft_wrap=False)
    table = tabulate(runs)
    if table.entries:
        tables.print_comparison(table, over_rates(table), console)
    listed = runs if everything or not table.entries else [run for run in runs if run.status != "completed"]
    if listed:
        console.print(list_of(listed))
    if chosen:
        show_comparison(console, chosen)
    console.print(f"{len(runs)} runs: {statuses(runs)}", highlight=False)
    if page is not None:
        from metarun.report.page.build import write_page

        write_page(runs, page)
        console.print(Text(str(page)), soft_wrap=True, highlight=False)


def find(name: str, runs: Sequence[Run]) -> Run:
    """The run of a name.

    Raises:
        LookupError: none, or several.
    """
    name = name.rstrip("/")
    tests = (
        lambda run: run.name == name or str(run.folder) == name,
        lambda run: run.name.endswith(name) or run.name.startswith(name),
        lambda run: name in run.name,
    )
    for test in tests:
        found = [run for run in runs if test(run)]
        if len(found) == 1:
            return found[0]
        if found:
            raise LookupError(f"{name} is the name of {len(found)} runs: {some(found)}")
    raise LookupError(f"there is no run {name}. Runs: {some(runs)}")


def some(runs: Sequence[Run]) -> str:
    return ", ".join(run.name for run in runs[:5]) + (", ..." if len(runs) > 5 else "")


def statuses(runs: Sequence[Run]) -> str:
    """`210 completed, 3 diverged`."""
    found = [run.status for run in runs]
    return ", ".join(f"{found.count(status)} {status}" for status in STATUSES if status in found)


def list_of(runs: Sequence[Run]) -> Table:
    """One line a run: what it came to, or why to nothing."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("run", "learner", "data", "seed", "status", "result"):
        table.add_column(head, overflow="fold")
    for run in runs:
        value = tables.estimate(run.metric, run.mean, run.result.get("ci95")) if run.mean is not None else run.why
        style = "" if run.status == "completed" else "red"
        words = (run.name, run.algo, run.data, "" if run.seed is None else str(run.seed))
        table.add_row(*map(Text, words), Text(run.status, style), Text(f"{run.metric} {value}".strip()))
    return table


def show_comparison(console: Console, chosen: Sequence[Run]) -> None:
    """Paired tests of the first run against each other one."""
    found: list[tuple[Run, Paired | str]] = []
    for run in chosen[1:]:
        try:
            found.append((run, paired(chosen[0], run)))
        except ValueError as error:
            found.append((run, str(error)))
    console.print(tables.paired_table(chosen[0], found, console))
    about = f"difference: run minus {chosen[0].name}, ± half the 95 % interval; {METHOD}"
    console.print(Text(tables.printable(about, console), "dim"))
    if len(found) > 1:
        console.print(Text("p is not corrected for the number of comparisons", "dim"))
