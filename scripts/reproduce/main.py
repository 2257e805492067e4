"""Run the project's own measurements and write their tables: `python -m scripts.reproduce.main sinusoid`.

Each cell is one `metarun` command in a folder of its own under outputs/reproduce/TARGET. Started again, it skips runs
that completed or diverged and resumes those that were interrupted. REPLICATION.md has the finished tables, with date
and commit.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from metarun.files import write_text
from scripts.reproduce.cells import PROBLEMS, REPRODUCED, TARGETS, Cell, run_folder
from scripts.reproduce.figures import draw_optimizers
from scripts.reproduce.run import run
from scripts.reproduce.tables import optimizer_curves, optimizer_table, table


def reproduce(cells: list[Cell], folder: Path, jobs: int) -> str:
    """Run what is missing of some cells below `folder`, `jobs` side by side; returns their table."""
    with ThreadPoolExecutor(jobs) as pool:
        results = {
            cell.name: [pool.submit(run, cell, seed, run_folder(folder, cell.name, seed)) for seed in cell.seeds]
            for cell in cells
        }
    return table([(cell, [future.result() for future in results[cell.name]]) for cell in cells])


def compare_optimizers(folder: Path) -> str:
    """The table of the learned optimizer beside tuned ones; draws `PROBLEM.png` beside it."""
    curves = {problem: optimizer_curves(problem, folder) for problem in PROBLEMS}
    for problem, (shown, _) in curves.items():
        draw_optimizers(shown, problem, folder / f"{problem}.png")
    return optimizer_table(curves)


def main() -> None:
    """Run one target and write its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side (default 1)")
    args = parser.parse_args()
    folder = REPRODUCED / args.target
    text = reproduce(TARGETS[args.target], folder, args.jobs)
    if args.target == "optimizers":
        text += f"\n\n{compare_optimizers(folder)}"
    write_text(folder / "table.md", f"{text}\n")
    print(text)


if __name__ == "__main__":
    main()
