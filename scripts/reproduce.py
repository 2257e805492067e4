"""Run the project's own measurements and write their tables: `python scripts/reproduce.py sinusoid`.

Each cell is one `metarun` command in a folder of its own under outputs/reproduce/TARGET. Started again, it skips
what is completed and goes on with what was interrupted. The finished tables, with date and commit, stand in
REPLICATION.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]


class Cell(NamedTuple):
    """One learner in one setting: the overrides of its command, and the seeds it is run with."""

    name: str
    overrides: list[str]
    seeds: list[int]


SINUSOID = ["data=sinusoid", "run.iterations=12000", "run.meta_batch=25", "device.threads=1"]
OMNIGLOT = ["data=omniglot", "algo=maml"]
# A small Omniglot whose test alphabets are unseen, conv4 with 32 filters, 200 held-out episodes (systems.md, table Z.1)
SMALL = ["data=omniglot", "data.split=small", "backbone.filters=32", "run.eval_tasks=200", "optimizer.clip=1"]
SMALL += ["run.validate_every=500", "run.val_tasks=60", "device.threads=1"]


def named(what: str, overrides: tuple[str, ...]) -> str:
    """A cell's name, which is its folder's too: what it is and the learner's own arguments that are overridden."""
    own = [word.removeprefix("algo.").replace("=", " ") for word in overrides if word.startswith("algo.")]
    return " ".join([what, *own])


def small(algo: str, ways: int, shots: int, iterations: int, *more: str) -> Cell:
    """A row of table Z.1, three seeds; training tasks as the test's unless `more` says otherwise."""
    sizes = [f"data.ways={ways}", f"data.shots={shots}", f"run.iterations={iterations}", "optimizer.lr=0.001"]
    name = named(f"{algo} {ways}-way {shots}-shot", more)
    return Cell(name, [*SMALL, f"algo={algo}", *sizes, *SCHEDULE, *more], [0, 1, 2])


SCHEDULE = ["optimizer.schedule=cosine", "optimizer.halve_every=null", "run.meta_batch=1", "data.train_queries=15"]
# The whole of Omniglot, Vinyals' split, 5-way 1-shot: about 15 minutes each on one thread beside another run.
FULL = ["data=omniglot", "data.split=vinyals", "optimizer.schedule=cosine", "optimizer.halve_every=null"]
FULL += ["optimizer.lr=0.001", "run.val_tasks=200", "run.validate_every=500", "device.threads=1"]


def full(algo: str, iterations: int, *more: str) -> Cell:
    """One learner on the whole of Omniglot, its setting's training tasks, one seed."""
    return Cell(named(algo, more), [*FULL, f"algo={algo}", f"run.iterations={iterations}", *more], [0])


ANY = ["data.train_ways=20", "data.train_queries=5"]  # for learners whose weights do not depend on the ways
TARGETS: dict[str, list[Cell]] = {
    "small": [
        Cell("nearest_centroid 5-way 1-shot", [*SMALL, "algo=nearest_centroid"], [0]),
        small("protonet", 5, 1, 2000, *ANY),
        small("protonet", 5, 5, 1000, *ANY, "data.train_queries=10"),
        small("protonet", 20, 1, 1000, *ANY),
        small("matching", 5, 1, 2000, *ANY),
        small("matching", 5, 1, 2000, *ANY, "algo.fce=true"),
        small("relation", 5, 1, 2000),
        small("relation", 5, 5, 1500, "data.train_queries=10"),
        small("imp", 5, 1, 2000, *ANY),
        small("imp", 5, 5, 1000, *ANY, "data.train_queries=10"),
        small("gnn", 5, 1, 2500, "run.meta_batch=4", "data.train_queries=3"),
        small("siamese", 5, 1, 2000),
        small("r2d2", 5, 1, 2000, *ANY, "data.train_shots=1", "algo.regularization=50"),
        small("r2d2", 5, 5, 1000, *ANY, "data.train_shots=5", "data.train_queries=10", "algo.regularization=50"),
        small("r2d2", 5, 1, 2000, *ANY, "data.train_shots=1", "algo.regularization=1"),
        small("r2d2", 5, 5, 1000, *ANY, "data.train_shots=5", "data.train_queries=10", "algo.regularization=1"),
        small("lr_d2", 5, 1, 2000, *ANY, "data.train_shots=1"),
        small("lr_d2", 5, 5, 1000, *ANY, "data.train_shots=5", "data.train_queries=10"),
        small("metaoptnet", 5, 5, 1000, "data.train_shots=5", "data.train_queries=10"),
        small("metaoptnet", 5, 5, 1000, "data.train_shots=5", "data.train_queries=10", "algo.variant=ridge"),
        small("versa", 5, 1, 2000, "algo.dimension=32", "run.meta_batch=1"),
    ],
    # MAML's sinusoid, K = 10, alpha 0.01: what meta-learning adds to each thing one could do without it
    "sinusoid": [
        Cell(algo, [*SINUSOID, f"algo={algo}"], [0, 1, 2]) for algo in ("maml", "fomaml", "joint", "scratch", "oracle")
    ],
    "omniglot15": [
        full("protonet", 3000),
        full("matching", 2000),
        full("matching", 2000, "algo.fce=true"),
        full("relation", 1600),
        full("imp", 3000),
        full("gnn", 3400),
        full("siamese", 4000),
        full("r2d2", 3000, "data.train_shots=1"),
        full("lr_d2", 8000, "data.train_shots=1"),
        full("metaoptnet", 1500, "data.train_shots=5"),
        full("metaoptnet", 1500, "data.train_shots=5", "algo.variant=ridge"),
        full("versa", 2800, "run.meta_batch=4"),
    ],
    # classes of three characters each, two examples of every character (Allen et al. 2019: super-classes)
    "superclasses": [
        small(algo, 5, 2, 1000, "data.merged=3", "data.train_queries=5", "data.queries=5")
        for algo in ("protonet", "imp")
    ],
    # about 40 minutes each on two cores
    "omniglot": [
        Cell("maml 5-way 1-shot", OMNIGLOT, [0]),
        Cell("maml 5-way 5-shot", [*OMNIGLOT, "data.shots=5", "run.iterations=1200"], [0]),
        Cell("nearest_centroid 5-way 1-shot", ["data=omniglot", "algo=nearest_centroid"], [0]),
    ],
    # about 30 minutes on two cores
    "miniimagenet": [
        Cell("maml 5-way 1-shot", ["data=miniimagenet", "algo=maml", "run.iterations=2000"], [0]),
        Cell("nearest_centroid 5-way 1-shot", ["data=miniimagenet", "algo=nearest_centroid"], [0]),
    ],
}


def run(cell: Cell, seed: int, folder: Path) -> dict[str, Any]:
    """The result of one run, which is started, resumed or read as need be; one that fails leaves the others to run."""
    result = folder / "result.json"
    if not result.is_file() or json.loads(result.read_text())["status"] != "completed":
        if (folder / "checkpoint" / "last.json").is_file():
            arguments = [f"run.resume={folder}"]
        else:
            arguments = [*cell.overrides, f"seed={seed}", f"hydra.run.dir={folder}"]
        subprocess.run([sys.executable, "-m", "metarun", *arguments], check=False, cwd=ROOT)
    return json.loads(result.read_text()) if result.is_file() else {"status": "refused"}


def row(cell: Cell, results: list[dict[str, Any]]) -> str:
    """One line of the table: mean over seeds, and each seed with its interval over tasks."""
    columns = [cell.name]
    if any(r["status"] != "completed" for r in results):
        return f"| {cell.name} | {', '.join(r['status'] for r in results)} | | | | |"
    steps = sorted({r["step"] for r in results} | {s["step"] for s in results[0]["steps"] if s["step"] in (0, 1, 10)})
    for step in steps:
        rows = [next(s for s in r["steps"] if s["step"] == step) for r in results]
        each = ", ".join(f"{s['mean']:.3f} ± {s['ci95']:.3f}" for s in rows)
        columns.append(f"step {step}: **{statistics.mean(s['mean'] for s in rows):.3f}** ({each})")
    first = results[0]
    seconds = statistics.mean(r["train_seconds"] for r in results)
    columns += [f"{first['iterations']}", f"{seconds:.0f} s", f"{first['tasks']}", f"{first['commit'] or '?':.9}"]
    return "| " + " | ".join([columns[0], "; ".join(columns[1:-4]), *columns[-4:]]) + " |"


def main() -> None:
    """Run one target and write its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    arguments = parser.parse_args()
    cells = TARGETS[arguments.target]
    folder = ROOT / "outputs" / "reproduce" / arguments.target
    runs = [(cell, seed, folder / f"{cell.name.replace(' ', '_')}_seed{seed}") for cell in cells for seed in cell.seeds]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(lambda each: run(*each), runs))
    lines = ["| learner | metric | iterations | training | tasks | commit |", "|---|---|---|---|---|---|"]
    for cell in cells:
        lines.append(row(cell, [result for result, (other, *_) in zip(results, runs, strict=True) if other is cell]))
    (folder / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
