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

import numpy as np

ROOT = Path(__file__).parents[1]


class Cell(NamedTuple):
    """One learner in one setting: the overrides of its command, and the seeds it is run with."""

    name: str
    overrides: list[str]
    seeds: list[int]


SINUSOID = ["data=sinusoid", "run.iterations=12000", "run.meta_batch_size=25", "device.threads=1"]
OMNIGLOT = ["data=omniglot", "algo=maml"]
# A small Omniglot whose test alphabets are unseen, conv4 with 32 filters, 200 held-out episodes (systems.md, table Z.1)
SMALL = [
    "data=omniglot",
    "data.partition=small",
    "backbone.filters=32",
    "run.eval_tasks=200",
    "optimizer.max_grad_norm=1",
]
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


SCHEDULE = ["scheduler=cosine", "run.meta_batch_size=1", "data.train_queries=15"]
# The whole of Omniglot, Vinyals' split, 5-way 1-shot: about 15 minutes each on one thread beside another run.
FULL = ["data=omniglot", "data.partition=vinyals", "scheduler=cosine"]
FULL += ["optimizer.lr=0.001", "run.val_tasks=200", "run.validate_every=500", "device.threads=1"]


def full(algo: str, iterations: int, *more: str) -> Cell:
    """One learner on the whole of Omniglot, its setting's training tasks, one seed."""
    return Cell(named(algo, more), [*FULL, f"algo={algo}", f"run.iterations={iterations}", *more], [0])


# The whole of mini-ImageNet, conv4-64: about 20 minutes each on one thread beside another run.
MINI = ["data=miniimagenet", "backbone.filters=64", "scheduler=cosine"]
MINI += ["data.train_queries=5", "run.val_tasks=100", "run.validate_every=100", "device.threads=1"]


def mini(algo: str, ways: int, shots: int, iterations: int, *more: str) -> Cell:
    """One learner on the whole of mini-ImageNet, trained with the test's shots, one seed."""
    sizes = [f"data.train_ways={ways}", f"data.shots={shots}", f"data.train_shots={shots}"]
    name = named(f"{algo} 5-way {shots}-shot", more)
    return Cell(name, [*MINI, f"algo={algo}", *sizes, f"run.iterations={iterations}", *more], [0])


CLUSTERS = ["data=clusters", "run.eval_tasks=600", "device.threads=1"]
LITTLE = ["run.val_tasks=100", "run.validate_every=500", "device.threads=1"]
SHARED = ["run.iterations=3000", "algo.pretrain_share=0.6666"]  # a thousand outer steps on tasks
REPRODUCED = ROOT / "outputs" / "reproduce"
RATES = {
    "sgd": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "nag": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "rmsprop": (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 1.0),
    "adam": (0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 1.0, 3.0),
}
# what is optimized, and by which hand-made rules beside; the last two are networks that the learned one has not seen
PROBLEMS = {
    "quadratics": (["data=quadratics"], tuple(RATES)),
    "digits": (["data=digits"], tuple(RATES)),
    "digits-wider": (["data=digits", "backbone.hidden=[40]"], ("adam",)),
    "digits-relu": (["data=digits", "backbone.activation=relu"], ("adam",)),
}


def optimizing(problem: str) -> list[Cell]:
    """The learned optimizer on a problem, and hand-made ones at eight or ten rates each."""
    words, rules = PROBLEMS[problem]
    learned = [*words, "algo=l2l_optimizer", "device.threads=1"]
    if (source := problem.partition("-")[0]) != problem:
        learned = [f"run.evaluate={REPRODUCED / 'optimizers' / f'{source}_learned_seed0'}", *words[1:]]
    cells = [Cell(f"{problem} learned", learned, [0])]
    for rule in rules:
        own = [*words, "algo=tuned_optimizer", f"algo.inner_optimizer={rule}", "device.threads=1"]
        cells += [Cell(f"{problem} {rule} {rate}", [*own, f"algo.inner_lr={rate}"], [0]) for rate in RATES[rule]]
    return cells


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
        small("gnn", 5, 1, 2500, "run.meta_batch_size=4", "data.train_queries=3"),
        small("siamese", 5, 1, 2000),
        small("r2d2", 5, 1, 2000, *ANY, "data.train_shots=1", "algo.regularization=50"),
        small("r2d2", 5, 5, 1000, *ANY, "data.train_shots=5", "data.train_queries=10", "algo.regularization=50"),
        small("r2d2", 5, 1, 2000, *ANY, "data.train_shots=1", "algo.regularization=1"),
        small("r2d2", 5, 5, 1000, *ANY, "data.train_shots=5", "data.train_queries=10", "algo.regularization=1"),
        small("lr_d2", 5, 1, 2000, *ANY, "data.train_shots=1"),
        small("lr_d2", 5, 5, 1000, *ANY, "data.train_shots=5", "data.train_queries=10"),
        small("metaoptnet", 5, 5, 1000, "data.train_shots=5", "data.train_queries=10"),
        small("metaoptnet", 5, 5, 1000, "data.train_shots=5", "data.train_queries=10", "algo.variant=ridge"),
        small("versa", 5, 1, 2000, "algo.dimension=32", "run.meta_batch_size=1"),
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
        full("versa", 2800, "run.meta_batch_size=4"),
        full("metaoptnet", 3000, *ANY, "data.train_shots=1", "run.meta_batch_size=1")._replace(
            name="metaoptnet 20-way tasks"
        ),
    ],
    # classes of three characters each, two examples of every character (Allen et al. 2019: super-classes)
    "superclasses": [
        small(algo, 5, 2, 1000, "data.classes_per_way=3", "data.train_queries=5", "data.queries=5")
        for algo in ("protonet", "imp")
    ],
    # with a memory, and learned update rules (systems.md, sections 13, 28 to 30)
    "memory": [
        *[Cell(f"{algo} clusters", [*CLUSTERS, f"algo={algo}"], [0, 1, 2]) for algo in ("mann", "lstm")],
        Cell("metanet 5-way 1-shot", [*SMALL, "algo=metanet", "run.iterations=1600"], [0]),
        Cell("snail 5-way 1-shot", [*SMALL, "algo=snail", "run.iterations=1600"], [0]),
        Cell("snail vinyals 5-way 1-shot", ["data=omniglot", "algo=snail", "run.iterations=1800", *LITTLE], [0]),
        Cell("mann maml split", ["data=omniglot", "algo=mann", "run.iterations=5000", *LITTLE], [0]),
        Cell("meta_lstm sinusoid", ["data=sinusoid", "algo=meta_lstm", "device.threads=1"], [0]),
        Cell("meta_lstm 5-way 5-shot", [*SMALL, "algo=meta_lstm", "data.shots=5", "run.iterations=600"], [0]),
    ],
    # the learned optimizer, hand-made ones at eight or ten rates each, and the learned one on networks new to it
    "optimizers": [cell for problem in PROBLEMS for cell in optimizing(problem)],
    # sinusoids and lines: PLATIPUS from MAML's weights
    "ambiguous": [
        *[
            Cell(algo, ["data=sinusoid_line", f"algo={algo}", "device.threads=1"], [0])
            for algo in ("maml", "llama", "emaml", "bmaml")
        ],
        Cell(
            "platipus",
            [
                "data=sinusoid_line",
                "algo=platipus",
                "device.threads=1",
                f"run.init_from={REPRODUCED / 'ambiguous' / 'maml_seed0'}",
            ],
            [0],
        ),
    ],
    # a hundred training tasks
    "few_tasks": [
        Cell(algo, ["data=sinusoid_bmaml", f"algo={algo}", "device.threads=1"], [0, 1, 2])
        for algo in ("bmaml", "emaml", "maml")
    ],
    # calibration on the small Omniglot, as many tasks for each
    "bayes": [
        Cell(f"{algo} 5-way 1-shot", [*SMALL, f"algo={algo}", "run.iterations=800", "run.meta_batch_size=4"], [0])
        for algo in ("maml", "platipus", "llama", "emaml", "bmaml")
    ],
    # meta-transfer learning beside what it starts from, 544 training classes
    "transfer": [
        *[
            Cell(
                f"{algo} 5-way 1-shot",
                [*SMALL, f"algo={algo}", "algo.base_classes=544", "run.iterations=3000"],
                [0, 1, 2],
            )
            for algo in ("pretrain", "baseline", "baseline_pp")
        ],
        Cell("mtl 5-way 1-shot", [*SMALL, "algo=mtl", "algo.base_classes=544", *SHARED], [0]),
        Cell("maml 5-way 1-shot", [*SMALL, "algo=maml", "run.iterations=1000", "run.meta_batch_size=8"], [0]),
    ],
    # about 40 minutes each on two cores
    "omniglot": [
        Cell("maml 5-way 1-shot", OMNIGLOT, [0]),
        Cell("maml 5-way 5-shot", [*OMNIGLOT, "data.shots=5", "run.iterations=1200"], [0]),
        Cell("nearest_centroid 5-way 1-shot", ["data=omniglot", "algo=nearest_centroid"], [0]),
    ],
    "miniimagenet20": [
        mini("protonet", 20, 1, 780),
        mini("r2d2", 16, 1, 1000),
        mini("protonet", 20, 1, 1000, "algo.temperature=64"),
        mini("protonet", 20, 5, 600, "algo.temperature=64"),
        mini("r2d2", 16, 1, 1000, "algo.scale=10", "optimizer.lr=0.001"),
        mini("r2d2", 16, 5, 600, "algo.scale=10", "optimizer.lr=0.001"),
        mini("r2d2", 16, 5, 580),
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
        if any(s["mean"] is None for s in rows):
            columns.append(f"step {step}: not finite")
            continue
        each = ", ".join(f"{s['mean']:.3f} ± {s['ci95']:.3f}" for s in rows)
        columns.append(f"step {step}: **{statistics.mean(s['mean'] for s in rows):.3f}** ({each})")
    first = results[0]
    seconds = statistics.mean(r["train_seconds"] for r in results)
    columns += [f"{first['iterations']}", f"{seconds:.0f} s", f"{first['tasks']}", f"{first['commit'] or '?':.9}"]
    return "| " + " | ".join([columns[0], "; ".join(columns[1:-4]), *columns[-4:]]) + " |"


def optimizers(folder: Path) -> str:
    """The learned optimizer beside hand-made ones at their best rates: a table, and `PROBLEM.png` beside it.

    A hand-made one is tuned as the paper does, by the loss that it ends with; in brackets the best of all its rates at
    that very step, which no single rate need have.
    """
    lines = ["| problem | optimizer | step 10 | 20 | 50 | 100 |", "|---|---|---|---|---|---|"]
    for problem, (_, rules) in PROBLEMS.items():
        shown = {"learned": read_curve(folder / f"{problem}_learned_seed0")}
        best: dict[str, dict[int, float]] = {}
        for rule in rules:
            rates = {rate: read_curve(folder / f"{problem}_{rule}_{rate}_seed0") for rate in RATES[rule]}
            rates = {rate: curve for rate, curve in rates.items() if curve and np.isfinite(curve[max(curve)])}
            rate = min(rates, key=lambda at: rates[at][max(rates[at])])
            shown[f"{rule}, {rate}"] = rates[rate]
            best[f"{rule}, {rate}"] = {step: min(curve[step] for curve in rates.values()) for step in rates[rate]}
        for name, curve in shown.items():
            cells = [f"{curve[s]:.3f}" + (f" ({best[name][s]:.3f})" if name in best else "") for s in (10, 20, 50, 100)]
            lines.append(f"| {problem} | {name} | " + " | ".join(cells) + " |")
        draw_optimizers(shown, problem, folder / f"{problem}.png")
    return "\n".join(lines)


def draw_optimizers(curves: dict[str, dict[int, float]], problem: str, path: Path) -> None:
    """Loss against step, the first curve thicker."""
    from metarun.report.style import label, new_figure

    with new_figure(path, (5.0, 3.4)) as figure:
        axes = figure.subplots()
        for number, (name, curve) in enumerate(curves.items()):
            axes.plot(list(curve), list(curve.values()), label=name, linewidth=1.2 if number else 2.4)
        axes.set_yscale("log")
        label(axes, "step", f"loss, {problem}")
        axes.legend(frameon=False, fontsize=8)


def read_curve(folder: Path) -> dict[int, float]:
    """The mean loss (the headline, or beside an accuracy the NLL) of test tasks after each step; empty: no result."""
    result = folder / "result.json"
    if not result.is_file() or (told := json.loads(result.read_text()))["status"] != "completed":
        return {}
    with np.load(folder / "episodes.npz") as values:
        name = "nll" if told["metric"] == "accuracy" else told["metric"]
        return dict(enumerate(values[name].mean(0).tolist()))


def main() -> None:
    """Run one target and write its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    arguments = parser.parse_args()
    cells = TARGETS[arguments.target]
    folder = REPRODUCED / arguments.target
    runs = [(cell, seed, folder / f"{cell.name.replace(' ', '_')}_seed{seed}") for cell in cells for seed in cell.seeds]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(lambda each: run(*each), runs))
    lines = ["| learner | metric | iterations | training | tasks | commit |", "|---|---|---|---|---|---|"]
    for cell in cells:
        lines.append(row(cell, [result for result, (other, *_) in zip(results, runs, strict=True) if other is cell]))
    if arguments.target == "optimizers":
        lines += ["", optimizers(folder)]
    (folder / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
