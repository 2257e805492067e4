"""How fast is metarun: beside learn2learn, beside the practical limit, learner by learner.

    python -m scripts.benchmark.main [--threads 2] [--quick] [--only NAME ...] [--data FOLDER] [--json FILE]

Prints Markdown. An outer step: zero the gradients, forward, backward, Adam. All sides: same weights, tasks, threads.

First table: MAML, ANIL and ProtoNet, four sides in turn, each in a process of its own that computes in its rounds and
sleeps through the others'. `learn2learn` is written as its examples are (examples/vision/maml_omniglot.py): clone,
adapt, backward of each task's error, gradients over the number of tasks, step; its networks are its own, its data the
transforms of its own Omniglot benchmark over an image folder. `limit` is the same outer step written out by hand for
the whole meta-batch (scripts/benchmark/handwritten.py), eager. `eager` and `compiled` are metarun's. Before anything
is timed all sides compute losses and meta-gradient of the same tasks from the same weights, and the table shows how
far these differ. The floor: floating-point operations of learn2learn's step, counted, over the rate that matrix
products reach on this machine.

Second table (`--only learners`): every learner's outer step as `metarun` makes it, eager, with its data. Third
(`--only memory`): memory against meta-batch, inner steps and micro-batches.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from metarun.files import write_json
from scripts.benchmark.learners import every_learner
from scripts.benchmark.memory import memory
from scripts.benchmark.sides import ROWS, Row, lay_out_images
from scripts.benchmark.tables import conditions, learners_table, memory_table, table
from scripts.benchmark.worker import Worker, matrix_rate, work


def compare(name: str, args: argparse.Namespace, folder: Path, rate: float) -> dict[str, Any]:
    """One row's sides, in turn, in several rounds.

    Args:
        name: of the row.
        args: of the command line.
        folder: holds the images of `lay_out_images`.
        rate: floating-point operations a second of matrix products.
    """
    row = ROWS[name]
    rounds, seconds = (1, 1.0) if args.quick else (3, 1.5)
    workers = {side: Worker(args.threads, work, row, side, seconds, args.data, folder) for side in row.sides}
    first: dict[str, dict[str, Any]] = {}
    measured: dict[str, list[dict[str, Any]]] = {side: [] for side in row.sides}
    try:
        for side, worker in workers.items():
            print(f"{name}: {side}", file=sys.stderr)
            first[side] = worker.next()
        for _ in range(rounds):
            for side, worker in workers.items():
                measured[side].append(worker.next())
    finally:
        for worker in workers.values():
            worker.end()
    reference = first["learn2learn"]
    sides = {side: summary(first[side], measured[side], reference) for side in row.sides}
    return {
        "name": name,
        "title": row.title,
        "gflop": reference["flops"] / 1e9,
        "bar": row.bar,
        "floor": row.floor,
        **ratios(row, sides, reference["flops"] / rate),
        "sides": sides,
    }


def summary(first: dict[str, Any], rounds: list[dict[str, Any]], reference: dict[str, Any]) -> dict[str, float]:
    """What one side took, and how far its first losses and gradient are from the reference's, relatively."""
    times = [seconds for measured in rounds for seconds in measured["times"]]
    return {
        "median_ms": 1000 * statistics.median(times),
        "repetitions": len(times),
        "first_call_seconds": first["first_call"],
        "peak_mb": max(measured["peak_mb"] for measured in rounds),
        "growth_mb": max(measured["growth_mb"] for measured in rounds),
        # Not by torch: a process that has computed on several threads must not fork.
        **{
            f"{what}_relative_difference": math.dist(first[what], reference[what]) / math.hypot(*reference[what])
            for what in ("losses", "gradient")
        },
    }


def ratios(row: Row, sides: dict[str, dict[str, float]], floor_seconds: float) -> dict[str, float]:
    """The faster of ours beside learn2learn, the step written out by hand, and the floor."""
    best = min(sides[side]["median_ms"] for side in ("eager", "compiled") if side in row.sides)
    values = {"faster": sides["learn2learn"]["median_ms"] / best}
    if "limit" in row.sides:
        values |= {
            "of_limit": best / sides["limit"]["median_ms"],
            "of_limit_eager": sides["eager"]["median_ms"] / sides["limit"]["median_ms"],
            "of_floor": best / (1000 * floor_seconds),
        }
    return values


def measure(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Fill `results`, and write them after every row, so that an interrupted run leaves what it has measured."""
    import learn2learn  # noqa: F401  (once for all processes)

    def write() -> None:
        if args.json:
            write_json(args.json, results)

    worker = Worker(args.threads, matrix_rate)
    results["conditions"]["gflops"] = round(worker.next() / 1e9, 1)
    worker.end()
    names = [name for name in args.only if name in ROWS]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if any(ROWS[name].sampled for name in names):
            lay_out_images(args.data, folder)
        for name in names:
            results["rows"].append(compare(name, args, folder, 1e9 * results["conditions"]["gflops"]))
            write()
    if "learners" in args.only:
        results["learners"] = every_learner(args.threads, 0.3 if args.quick else 0.8, args.data)
    if "memory" in args.only:
        results["memory"] = memory(args.threads)
    write()


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads of every process (default 2)")
    parser.add_argument("--quick", action="store_true", help="one short round of each; the figures are rough")
    choices = [*ROWS, "learners", "memory"]
    parser.add_argument("--only", nargs="+", choices=choices, default=choices, help="rows and tables to measure")
    parser.add_argument("--data", help="folder that holds Omniglot (else METARUN_DATA, else ./data)")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser


def main() -> None:
    args = parser().parse_args()
    results: dict[str, Any] = {"conditions": conditions(args.threads), "rows": [], "learners": [], "memory": []}
    measure(args, results)
    if args.quick:
        print("--quick: one short round of each; the figures are rough.\n")
    print(", ".join(f"{name} {value}" for name, value in results["conditions"].items()))
    for name, show in (("rows", table), ("learners", learners_table), ("memory", memory_table)):
        if results[name]:
            print(f"\n{show(results[name])}")


if __name__ == "__main__":
    main()
