"""How fast is metarun beside learn2learn: same weights, same tasks, same threads, one process at a time.

    python scripts/benchmark.py [--threads 2] [--quick] [--only NAME ...] [--data FOLDER] [--json FILE]

Prints a Markdown table of medians. An outer step: zero the gradients, forward, backward, Adam. learn2learn's
side is written as its examples are (examples/vision/maml_omniglot.py): clone, adapt, backward of each task's
error, gradients over the number of tasks, step; its network is its own OmniglotCNN, its data the transforms
of its own Omniglot benchmark over an image folder. Before anything is timed both sides compute losses and
meta-gradient of the same tasks from the same weights, and the table says how far these differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun.algos.maml import MAML
from metarun.backbones.conv4 import Conv4
from metarun.backbones.mlp import MLP
from metarun.tasks.images import data_roots
from metarun.tasks.omniglot import Omniglot
from metarun.tasks.sinusoid import Sinusoid
from metarun.tasks.task import Batch, Examples, Task

WAYS, SHOTS = 5, 1


class Row(NamedTuple):
    """One line of the table: what is timed, and by how much metarun is to be faster."""

    title: str
    data: str  # sinusoid | noise (images of random pixels) | omniglot
    tasks: int
    inner_lr: float
    steps: int
    first_order: bool
    queries: int  # per class; points of a sinusoid
    times: str  # step | draw | both
    bar: float | None  # learn2learn's time over ours, eager
    compiled_bar: float | None = None

    @property
    def sides(self) -> tuple[str, ...]:
        return ("learn2learn", "eager") if self.times == "draw" else ("learn2learn", "eager", "compiled")


ROWS = {
    "sinusoid-1": Row("sinusoid, 25 tasks, 1 step", "sinusoid", 25, 0.01, 1, False, 10, "step", 7, 15),
    "sinusoid-5": Row("sinusoid, 25 tasks, 5 steps", "sinusoid", 25, 0.01, 5, False, 10, "step", 7, 24),
    "conv4-1q": Row("conv4-64, 1 query, second order", "noise", 32, 0.4, 1, False, 1, "step", 1.7),
    "conv4-1q-first": Row("conv4-64, 1 query, first order", "noise", 32, 0.4, 1, True, 1, "step", 1.7),
    "conv4-15q": Row("conv4-64, 15 queries, second order", "noise", 32, 0.4, 1, False, 15, "step", None),
    "end-to-end": Row("Omniglot data and step, 1 query", "omniglot", 32, 0.4, 1, False, 1, "both", 3),
    "draw": Row("Omniglot data alone, 15 queries", "omniglot", 32, 0.4, 1, False, 15, "draw", 100),
}


# ------------------------------------------------------------------------------------------------- both sides


def network(row: Row) -> nn.Module:
    """Our backbone, with the same weights in every process."""
    torch.manual_seed(0)
    if row.data == "sinusoid":
        return MLP(in_shape=(1,), outputs=1, hidden=[40, 40], activation="relu", norm="none", init="torch")
    return Conv4(
        in_shape=(1, 28, 28),
        outputs=WAYS,
        filters=64,
        blocks=4,
        downsample="stride",
        features="mean",
        norm="batch",
        init="torch",
    )


def task_loss(row: Row) -> Callable[..., Tensor]:
    return F.mse_loss if row.data == "sinusoid" else F.cross_entropy


def fixed_batch(row: Row) -> Task:
    """The tasks that both sides are compared on, and that steps without a data pipeline are timed on."""
    generator = torch.Generator().manual_seed(1)
    if row.data == "sinusoid":
        data = Sinusoid(
            amplitude=(0.1, 5.0),
            phase=(0.0, 3.14159),
            frequency=(1.0, 1.0),
            x=(-5.0, 5.0),
            noise=0.0,
            shots=10,
            queries=row.queries,
            train_queries=row.queries,
            device="cpu",
        )
        batch = data.draw("train", "episodes", row.tasks, generator)
        assert isinstance(batch, Task)
        return batch

    def images(per_class: int) -> Examples:
        x = torch.rand(row.tasks, WAYS * per_class, 1, 28, 28, generator=generator)
        y = torch.arange(WAYS).repeat_interleave(per_class)
        return Examples(x, y.expand(row.tasks, -1).contiguous())

    return Task(images(SHOTS), images(row.queries))


class Side(NamedTuple):
    """What one library does: losses `[T]` with gradients left in `parameters`, an outer step, a draw."""

    parameters: list[nn.Parameter]
    losses: Callable[[Any], Tensor]
    step: Callable[[Any], Tensor]
    draw: Callable[[], Any]


# ------------------------------------------------------------------------------------------------------- ours


def metarun_side(row: Row, compiled: bool, data: str | None) -> Side:
    learner = MAML(
        backbone=lambda outputs: network(row),  # noqa: ARG005  (the network knows its width)
        outputs=WAYS,
        loss=task_loss(row),
        inner_lr=row.inner_lr,
        inner_steps=row.steps,
        eval_steps=row.steps,
        first_order=row.first_order,
    )
    forward = torch.compile(learner, dynamic=False) if compiled else learner
    adam = torch.optim.Adam(learner.parameters(), lr=1e-3, fused=True)

    def losses(batch: Task) -> Tensor:
        adam.zero_grad()
        values = forward(batch)
        values.mean().backward()
        return values.detach()

    def step(batch: Task) -> Tensor:
        values = losses(batch)
        adam.step()
        return values

    return Side(list(learner.parameters()), losses, step, our_pipeline(row, data))


def our_pipeline(row: Row, data: str | None) -> Callable[[], Batch]:
    if row.times == "step":
        return lambda: fixed_batch(row)
    omniglot = Omniglot(
        root=data,
        split="maml",
        split_seed=0,
        ways=WAYS,
        shots=SHOTS,
        queries=row.queries,
        train_ways=WAYS,
        train_queries=row.queries,
        flat_batch=64,
        device="cpu",
    )
    omniglot.prepare()
    return partial(omniglot.draw, "train", "episodes", row.tasks, torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------------------------------- learn2learn's


def learn2learn_network(row: Row) -> nn.Module:
    """The network its users take, with the weights of ours."""
    ours = network(row)
    if row.data == "sinusoid":
        return ours
    from learn2learn.vision.models import OmniglotCNN

    theirs = OmniglotCNN(WAYS)
    assert isinstance(ours, Conv4)
    with torch.no_grad():
        for number, block in enumerate(theirs.base, 1):
            for layer, name in ((block.conv, "conv"), (block.normalize, "norm")):
                weights = ours.blocks.get_submodule(f"{name}{number}").state_dict()
                layer.load_state_dict(weights, strict=False)  # its running statistics are not used
        theirs.classifier.load_state_dict(ours.head.state_dict())
    return theirs


def in_our_order(row: Row, net: Any) -> list[nn.Parameter]:
    """Its parameters in the order of ours: its blocks register the norm before the convolution."""
    if row.data == "sinusoid":
        return list(net.parameters())
    layers = [layer for block in net.base for layer in (block.conv, block.normalize)]
    return [p for layer in (*layers, net.classifier) for p in (layer.weight, layer.bias)]


def learn2learn_side(row: Row, folder: Path) -> Side:
    import learn2learn as l2l

    maml = l2l.algorithms.MAML(learn2learn_network(row), lr=row.inner_lr, first_order=row.first_order)
    adam = torch.optim.Adam(maml.parameters(), lr=1e-3, fused=True)  # as ours: the optimizer is torch's on both sides
    loss = task_loss(row)

    def losses(tasks: list[Task]) -> Tensor:
        adam.zero_grad()
        errors = []
        for support, query in tasks:
            learner = maml.clone()
            for _ in range(row.steps):
                learner.adapt(loss(learner(support.x), support.y))
            error = loss(learner(query.x), query.y)
            error.backward()
            errors.append(error.detach())
        for p in maml.parameters():
            p.grad.data.mul_(1.0 / len(tasks))
        return torch.stack(errors)

    def step(tasks: list[Task]) -> Tensor:
        values = losses(tasks)
        adam.step()
        return values

    return Side(in_our_order(row, maml.module), losses, step, learn2learn_pipeline(row, folder))


def task_list(batch: Task) -> list[Task]:
    """A batch as learn2learn's loop meets it: task after task."""
    support, query = (list(zip(*part, strict=True)) for part in batch)
    return [Task(Examples(*s), Examples(*q)) for s, q in zip(support, query, strict=True)]


def learn2learn_pipeline(row: Row, folder: Path) -> Callable[[], list[Task]]:
    """Its own benchmark's transforms (learn2learn/vision/benchmarks/omniglot_benchmark.py) over image files.

    But for RandomClassRotation, which rotates image by image through a sampling grid and would cost it more
    than all the rest; ours draws the rotated classes too.
    """
    if row.times == "step":
        return lambda: task_list(fixed_batch(row))
    import learn2learn as l2l
    from PIL import Image
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    images = ImageFolder(
        folder / "images",
        transform=transforms.Compose(
            [
                transforms.Resize(28, interpolation=transforms.InterpolationMode.LANCZOS),
                transforms.ToTensor(),
                lambda x: 1.0 - x,
            ]
        ),
        loader=lambda path: Image.open(path).convert("L"),  # as torchvision's Omniglot does
    )
    # told which image has which label, it need not open them all at every start
    dataset = l2l.data.MetaDataset(images, indices_to_labels=dict(enumerate(images.targets)))
    random.seed(0)
    classes = random.sample(range(len(images.classes)), 1100)
    train = l2l.data.FilteredMetaDataset(dataset, labels=classes)
    shots = SHOTS + row.queries
    taskset = l2l.data.Taskset(
        train,
        task_transforms=[
            l2l.data.transforms.FusedNWaysKShots(train, n=WAYS, k=shots),
            l2l.data.transforms.LoadData(train),
            l2l.data.transforms.RemapLabels(train),
            l2l.data.transforms.ConsecutiveLabels(train),
        ],
        num_tasks=20000,
    )
    in_support = torch.arange(WAYS * shots).remainder(shots) < SHOTS

    def draw() -> list[Task]:
        tasks = []
        for _ in range(row.tasks):
            x, y = taskset.sample()
            support, query = (Examples(x[rows], y[rows]) for rows in (in_support, ~in_support))
            tasks.append(Task(support, query))
        return tasks

    return draw


def lay_out_images(data: str | None, folder: Path) -> None:
    """`folder/images/ALPHABET.CHARACTER/*.png` out of the first Omniglot found, zip or folders.

    Raises:
        SystemExit: there is none.
    """
    names = ("omniglot_png.zip", "images_background.zip", "images_evaluation.zip")
    places = [base / sub for base in data_roots(data) for sub in ("", "omniglot", "omniglot-py")]
    for place in places:
        archives = [place / name for name in names]
        found = [path for path in archives if path.is_file()]
        source = place
        if found:
            source = folder / "extracted"
            for path in found:
                with zipfile.ZipFile(path) as archive:
                    archive.extractall(source)
        drawings = [*source.glob("images_*/*/*/*.png")]
        for drawing in drawings:
            character = folder / "images" / f"{drawing.parts[-3]}.{drawing.parts[-2]}"
            character.mkdir(parents=True, exist_ok=True)
            (drawing.replace if found else partial(shutil.copy, drawing))(character / drawing.name)
        if drawings:
            return
    sys.exit(f"Omniglot not found in {', '.join(map(str, places))}; say where with --data, or use --only")


# -------------------------------------------------------------------------------------------------- measuring


def peak_mb() -> float:
    """The most memory this process has had, in MB (Linux counts in KiB, macOS in bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure(row: Row, side: str, seconds: float, data: str | None, folder: Path) -> dict[str, Any]:
    """Losses and gradient of the fixed tasks, then the times (s) of at least five repetitions."""
    fixed: Any = fixed_batch(row)
    if side == "learn2learn":
        library, fixed = learn2learn_side(row, folder), task_list(fixed)
    else:
        library = metarun_side(row, side == "compiled", data)
    before = peak_mb()
    start = time.perf_counter()
    losses = library.losses(fixed)
    first_call = time.perf_counter() - start
    gradient = torch.cat([p.grad.flatten() for p in library.parameters if p.grad is not None]).clone()

    def once() -> None:
        if row.times == "step":
            library.step(fixed)
        elif row.times == "draw":
            library.draw()
        else:
            library.step(library.draw())

    for _ in range(3):
        once()
    times: list[float] = []
    while len(times) < 5 or sum(times) < seconds:
        start = time.perf_counter()
        once()
        times.append(time.perf_counter() - start)
    compile_seconds = first_call - statistics.median(times) if side == "compiled" else 0.0
    return {
        "times": times,
        "compile_seconds": compile_seconds,
        "losses": losses,
        "gradient": gradient,
        "peak_mb": peak_mb(),
        "growth_mb": peak_mb() - before,
    }


def in_a_process(name: str, side: str, seconds: float, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """`measure` in a process of its own, which sees `--threads` threads and nothing of the other side."""
    out = folder / "out.pt"
    command = [sys.executable, __file__, "--measure", name, side, str(seconds), str(folder), str(out)]
    command += ["--threads", str(args.threads)] + (["--data", args.data] if args.data else [])
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    return torch.load(out, weights_only=True)


def compare(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One row's sides, in turn, in several rounds."""
    row = ROWS[name]
    rounds, seconds = (1, 2.0) if args.quick else (3, 8.0)
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in row.sides}
    for _ in range(rounds):
        for side in row.sides:
            print(f"{name}: {side}", file=sys.stderr)
            runs[side].append(in_a_process(name, side, seconds, args, folder))
    referee = runs["learn2learn"][0]
    sides = {}
    for side, results in runs.items():
        times = [t for result in results for t in result["times"]]
        sides[side] = {
            "median_ms": 1000 * statistics.median(times),
            "repetitions": len(times),
            "compile_seconds": results[0]["compile_seconds"],  # later rounds find it in the compiler's cache
            "peak_mb": max(result["peak_mb"] for result in results),
            "growth_mb": max(result["growth_mb"] for result in results),
        }
        for what in ("losses", "gradient"):
            difference = (results[0][what] - referee[what]).norm() / referee[what].norm()
            sides[side][f"{what}_relative_difference"] = float(difference)
    for values in sides.values():
        values["times_faster"] = sides["learn2learn"]["median_ms"] / values["median_ms"]
    bars = {"bar": row.bar, "compiled_bar": row.compiled_bar}
    return {"name": name, "title": row.title, **bars, "sides": sides}


# -------------------------------------------------------------------------------------------------- reporting


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def conditions(threads: int) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "threads": threads,
        "cores": os.cpu_count(),
        "processor": processor(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in ("metarun", "torch", "learn2learn")},
    }


def verdict(times: float, bar: float | None) -> str:
    """Times faster, and whether that reaches the bar."""
    if bar is None:
        return f"{times:.2f}x"
    return f"{times:.2f}x ({'reaches' if times >= bar else 'BELOW'} {bar:g}x)"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| what | learn2learn, ms | metarun, ms | faster | compiled, ms | faster | compile, s "
        "| difference of losses, gradient | memory growth, MB: learn2learn, metarun, compiled |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        sides = row["sides"]
        theirs, eager, compiled = sides["learn2learn"], sides["eager"], sides.get("compiled")
        cells = [row["title"], f"{theirs['median_ms']:.2f}", f"{eager['median_ms']:.2f}"]
        cells.append(verdict(eager["times_faster"], row["bar"]))
        if compiled:
            faster = verdict(compiled["times_faster"], row["compiled_bar"])
            cells += [f"{compiled['median_ms']:.2f}", faster, f"{compiled['compile_seconds']:.0f}"]
        else:
            cells += ["", "", ""]
        ours = [side for side in (eager, compiled) if side]
        worst = [max(side[f"{what}_relative_difference"] for side in ours) for what in ("losses", "gradient")]
        cells.append(", ".join(f"{value:.0e}" for value in worst))
        cells.append(", ".join(f"{side['growth_mb']:.0f}" for side in (theirs, *ours)))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--threads", type=int, default=2, help="threads of every process (default 2)")
    parser.add_argument("--quick", action="store_true", help="one round of 2 s, not three of 8 s")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="rows to measure")
    parser.add_argument("--data", help="folder that holds Omniglot (else METARUN_DATA, else ./data)")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)  # how the script calls itself
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.measure:
        name, side, seconds, folder, out = args.measure
        torch.set_num_threads(args.threads)
        torch.save(measure(ROWS[name], side, float(seconds), args.data, Path(folder)), out)
        return
    start = conditions(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if any(ROWS[name].data == "omniglot" for name in args.only):
            lay_out_images(args.data, folder)
        rows = []
        for name in args.only:
            rows.append(compare(name, args, folder))
            if args.json:  # after every row, so that a run cut short has left what it measured
                args.json.write_text(json.dumps({"conditions": start, "rows": rows}, indent=2) + "\n")
    print(", ".join(f"{name} {value}" for name, value in start.items()))
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
