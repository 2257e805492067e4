"""Run recorded cells again and compare: `make verify-results N=5`.

Cheap cells are drawn at random (the seed is printed, `SEED=...` repeats a draw), and of each one seed is run again by
the record's command. An eager run on the machine of the record must have the recorded figure to the last digit that was
recorded. Compiled and fused runs, and other machines, add in another order: their figure must lie within the intervals
of the record's seeds. Exit status 1: one does not.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from metarun.run_folder import result_or_empty
from scripts.results.configuration import overrides_of
from scripts.results.machine import machine
from scripts.results.records import Record, SeedRun, load

ROOT = Path(__file__).parents[2]
CHEAP = 120.0  # seconds of training


@dataclass(frozen=True)
class Check:
    """One run again.

    Attributes:
        record: what was recorded.
        run: the seed that was run again.
        mean: its figure now; None: it is not finite, or the command left no result.
        exact: it had to be the same to the last digit.
        agrees: whether it does.
    """

    record: Record
    run: SeedRun
    mean: float | None
    exact: bool
    agrees: bool


def is_cheap(record: Record, seconds: float = CHEAP) -> bool:
    """Whether a record can be run again, by itself, in so many seconds of training."""
    first = record.runs[0]
    untrained = record.iterations == 0
    alone = "run.evaluate=" not in record.command and "run.init_from=" not in record.command
    known = first.seed is not None and (untrained or (first.seconds is not None and first.seconds <= seconds))
    return alone and known and record.metric in ("accuracy", "mse", "auc", "nll")


def draw(records: Sequence[Record], count: int, seed: int, seconds: float = CHEAP) -> list[Record]:
    """Cheap records, at most `count`, drawn by a seed."""
    cheap = [record for record in records if is_cheap(record, seconds)]
    return random.Random(seed).sample(cheap, min(count, len(cheap)))


def command(record: Record, run: SeedRun, folder: Path) -> list[str]:
    """The arguments that run one seed of a record again, by itself."""
    return [*overrides_of(record.command), f"seed={run.seed}", "tracker=none", f"hydra.run.dir={folder}"]


def figure_of(result: dict[str, Any], record: Record) -> float | None:
    """The recorded metric in a run's `result.json`."""
    if result.get("metric") == record.metric:
        return result.get("mean")
    entry = (result.get("metrics") or {}).get(record.metric)
    return entry.get("mean") if isinstance(entry, dict) else entry


def same_digits(record: Record, run: SeedRun, mean: float | None) -> bool:
    """Whether a figure is the recorded one, to as many digits as its record has.

    Trailing zeros are lost in JSON, so the digits are those of the longest number of the record's runs.
    """
    if run.mean is None or mean is None:
        return run.mean is mean
    written = [value for seed in record.runs for value in (seed.mean, seed.ci95) if value is not None]
    decimals = max(-int(Decimal(repr(value)).as_tuple().exponent) for value in written)
    return abs(mean - run.mean) <= 0.5 * 10.0**-decimals * (1 + 1e-6)


def compare(record: Record, run: SeedRun, result: dict[str, Any], device: str) -> Check:
    """A run again beside its record.

    Args:
        record, run: what was recorded.
        result: content of the new `result.json`.
        device: the machine that it was run on.
    """
    mean = figure_of(result, record)
    fused = "hydra/launcher=fused" in record.command
    eager = not result.get("compiled") and not record.compiled and not fused
    exact = eager and device == record.device
    if exact or mean is None or run.mean is None:
        return Check(record, run, mean, exact, same_digits(record, run, mean))
    own = result.get("ci95") or 0.0  # of the new run, where the record has none
    known = [(seed.mean, own if seed.ci95 is None else seed.ci95) for seed in record.runs if seed.mean is not None]
    low, high = min(value - ci for value, ci in known), max(value + ci for value, ci in known)
    return Check(record, run, mean, exact, low <= mean <= high or same_digits(record, run, mean))


def verify(record: Record) -> Check:
    """Run one seed of a record again, in a folder that goes afterwards."""
    run = record.runs[0]
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        arguments = [sys.executable, "-m", "metarun", *command(record, run, folder)]
        subprocess.run(arguments, check=False, cwd=ROOT, stdout=subprocess.DEVNULL)
        result = result_or_empty(folder)
        return compare(record, run, result, machine(result.get("device") or "cpu"))


def line(check: Check) -> str:
    """A check as a row of the table."""
    record, run = check.record, check.run
    interval = "" if run.ci95 is None else f" ± {run.ci95:.4g}"
    now = "none" if check.mean is None else f"{check.mean:.6g}"
    recorded = "none" if run.mean is None else f"{run.mean:.6g}"
    how = "exact" if check.exact else "within the interval"
    verdict = "agrees" if check.agrees else "DIFFERS" if check.mean is not None else "DIFFERS: no result"
    return f"| {record.target}/{record.cell}, seed {run.seed} | {recorded}{interval} | {now} | {how} | {verdict} |"


def main() -> None:
    """Draw, run, compare; exit status 1 where a figure differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=5, help="how many (default 5)")
    parser.add_argument("--seed", type=int, default=None, help="of the draw (default: another each time)")
    parser.add_argument("--seconds", type=float, default=CHEAP, help=f"of training at most (default {CHEAP:g})")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    print(f"draw: seed {seed}\n\n| cell | recorded | now | must be | verdict |\n|---|---|---|---|---|", flush=True)
    differing = False
    for record in draw(load(), args.cells, seed, args.seconds):
        check = verify(record)
        differing |= not check.agrees
        print(line(check), flush=True)
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
