"""Run the project's own measurements and write their records: `python -m scripts.reproduce.main sinusoid`.

Each cell is one `metarun` command in a folder of its own under outputs/reproduce/TARGET. Started again, it skips runs
that completed or diverged and resumes those that were interrupted; a folder that holds another run is put aside. Each
cell whose runs have ended becomes a record in docs/results, from which `make tables` renders the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from metarun.files import write_text
from scripts.reproduce.cells import PROBLEMS, REPRODUCED, TARGETS, Cell, run_folder
from scripts.reproduce.figures import draw_optimizers
from scripts.reproduce.run import run
from scripts.reproduce.tables import table
from scripts.reproduce.tuning import curves, tune
from scripts.results.from_runs import Runs, record_runs
from scripts.results.records import RESULTS


def reproduce(cells: Sequence[Cell], folder: Path, jobs: int) -> str:
    """Run what is missing of some cells below `folder`, `jobs` side by side; returns their table."""
    with ThreadPoolExecutor(jobs) as pool:
        results = {
            cell.name: [pool.submit(run, cell, seed, run_folder(folder, cell.name, seed)) for seed in cell.seeds]
            for cell in cells
        }
    return table([(cell, [future.result() for future in results[cell.name]]) for cell in cells])


def record(runs: Sequence[Runs], records: Path = RESULTS) -> None:
    """Write the record of each cell whose runs have all ended, and say which have not."""
    for cell in runs:
        path = record_runs(cell, records)
        print(f"{cell.cell}: {'a run did not end, so it has no record' if path is None else path}", flush=True)


def runs_of(target: str, folder: Path) -> list[Runs]:
    """The runs of a target's cells; of tuned optimizers those of the rates that validation chose, which it draws."""
    if target != "optimizers":
        return [
            Runs(target, cell.name, [run_folder(folder, cell.name, seed) for seed in cell.seeds])
            for cell in TARGETS[target]
        ]
    found = []
    for problem in PROBLEMS:
        tuned = tune(problem, folder)
        cells = {f"{problem} learned": f"{problem} learned"}
        cells |= {f"{problem} {entry.name}": entry.cell.name for entry in tuned}
        found += [Runs(target, cell, [run_folder(folder, name, 0)]) for cell, name in cells.items()]
        draw_optimizers(curves(problem, folder, tuned), problem, folder / f"{problem}.png")
    return found


def main() -> None:
    """Run one target, write its table and its records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side (default 1)")
    args = parser.parse_args()
    folder = REPRODUCED / args.target
    text = reproduce(TARGETS[args.target], folder, args.jobs)
    write_text(folder / "table.md", f"{text}\n")
    print(text)
    record(runs_of(args.target, folder))


if __name__ == "__main__":
    main()
