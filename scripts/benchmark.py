"""How fast is metarun: beside learn2learn, beside the practical limit, learner by learner.

    python scripts/benchmark.py [--threads 2] [--quick] [--only NAME ...] [--data FOLDER] [--json FILE]

Prints Markdown. An outer step: zero the gradients, forward, backward, Adam. All sides: same weights, tasks, threads.

First table: MAML, ANIL and ProtoNet, four sides in turn, each in a process of its own that is woken for a round and
sleeps through the others'. `learn2learn` is written as its examples are (examples/vision/maml_omniglot.py): clone,
adapt, backward of each task's error, gradients over the number of tasks, step; its networks are its own, its data the
transforms of its own Omniglot benchmark over an image folder. `limit` is the same outer step written out by hand for
the whole meta-batch (scripts/limit.py), eager. `eager` and `compiled` are metarun's. Before anything is timed all
sides compute losses and meta-gradient of the same tasks from the same weights, and the table says how far these
differ. The floor: floating-point operations of learn2learn's step, counted, over what matrix products reach here.

Second table (`--only learners`): every learner's outer step as `metarun` makes it, eager, with its data. Third
(`--only memory`): memory against meta-batch, inner steps and chunks.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import random
import resource
import shutil
import statistics
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import limit
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from metarun.algos.anil import ANIL
from metarun.algos.maml import MAML
from metarun.algos.protonet import ProtoNet
from metarun.backbones.conv4 import Conv4
from metarun.backbones.mlp import MLP
from metarun.data.omniglot import Omniglot
from metarun.data.roots import data_roots
from metarun.data.sinusoid import Sinusoid
from metarun.learner.learner import Learner, slice_tasks
from metarun.tasks import Batch, Examples, Task
from metarun.training.device import keep_freed_memory
from metarun.training.gradients import compiled_gradient_of, gradient_of

SHOTS = 1
SIDES = ("learn2learn", "limit", "eager", "compiled")


class Row(NamedTuple):
    """One line of the table: what is timed, and by how much metarun is to be faster."""

    title: str
    algo: str  # maml | anil | protonet
    data: str  # sinusoid | omniglot | miniimagenet; images of random pixels where no data is drawn
    tasks: int
    ways: int
    queries: int  # per class; points of a sinusoid
    inner_lr: float = 0.0
    steps: int = 0
    first_order: bool = False
    drawn: bool = False  # a new meta-batch is drawn for every step
    bar: float | None = None  # learn2learn's time over the faster of ours
    floor: float | None = None  # the faster of ours over the counted floor

    @property
    def sides(self) -> tuple[str, ...]:
        return ("learn2learn", "eager") if self.algo == "draw" else SIDES


CONV = "Omniglot conv4-64, 5-way 1-shot, 32 tasks, 1 step"
ROWS = {
    "sinusoid-1": Row("MAML, sinusoid, 25 tasks, 1 step", "maml", "sinusoid", 25, 1, 10, 0.01, 1, bar=30),
    "sinusoid-5": Row("MAML, sinusoid, 25 tasks, 5 steps", "maml", "sinusoid", 25, 1, 10, 0.01, 5, bar=40),
    "maml": Row(f"MAML, {CONV}, 1 query", "maml", "omniglot", 32, 5, 1, 0.4, 1, floor=3),
    "fomaml": Row("the same, first order", "maml", "omniglot", 32, 5, 1, 0.4, 1, first_order=True),
    "maml-15": Row(f"MAML, {CONV}, 15 queries", "maml", "omniglot", 32, 5, 15, 0.4, 1),
    "maml-data": Row(f"MAML, {CONV}, 1 query, with data", "maml", "omniglot", 32, 5, 1, 0.4, 1, drawn=True, bar=5),
    "anil-data": Row(f"ANIL, {CONV}, 1 query, with data", "anil", "omniglot", 32, 5, 1, 0.5, 1, drawn=True, bar=3),
    "protonet-data": Row(
        "ProtoNet, Omniglot conv4-64, 20-way 1-shot, 5 queries, with data",
        "protonet", "omniglot", 1, 20, 5, drawn=True, bar=3,
    ),
    "mini": Row(
        "MAML, mini-ImageNet conv4-32, 5-way 1-shot, 2 tasks, 5 steps, 5 queries",
        "maml", "miniimagenet", 2, 5, 5, 0.01, 5,
    ),
    "draw": Row("Omniglot's data alone, 32 tasks, 15 queries", "draw", "omniglot", 32, 5, 15, drawn=True, bar=100),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------- all sides


def network(row: Row, outputs: int | None) -> nn.Module:
    """Our backbone, with the same weights in every process."""
    torch.manual_seed(0)
    if row.data == "sinusoid":
        return MLP(in_shape=(1,), outputs=1, hidden=[40, 40], activation="relu", norm="none", init="torch")
    mini = row.data == "miniimagenet"
    return Conv4(
        in_shape=(3, 84, 84) if mini else (1, 28, 28),
        outputs=outputs,
        filters=32 if mini else 64,
        blocks=4,
        downsample="max_pool" if mini else "stride",
        features="flatten" if mini else "mean",
        norm="batch",
        init="torch",
    )


def task_loss(row: Row) -> Callable[..., Tensor]:
    return F.mse_loss if row.data == "sinusoid" else F.cross_entropy


def fixed_batch(row: Row) -> Task:
    """The tasks that all sides are compared on, and that steps without a data pipeline are timed on."""
    generator = torch.Generator().manual_seed(1)
    if row.data == "sinusoid":
        data = Sinusoid(
            amplitude=(0.1, 5.0),
            phase=(0.0, 3.14159),
            frequency=(1.0, 1.0),
            x=(-5.0, 5.0),
            random_inputs=0.0,
            shots=10,
            queries=row.queries,
            train_queries=row.queries,
            device="cpu",
        )
        batch = data.sample("train", "episodes", row.tasks, generator)
        assert isinstance(batch, Task)
        return batch
    shape = (3, 84, 84) if row.data == "miniimagenet" else (1, 28, 28)

    def images(per_class: int) -> Examples:
        x = torch.rand(row.tasks, row.ways * per_class, *shape, generator=generator)
        y = torch.arange(row.ways).repeat_interleave(per_class)
        return Examples(x, y.expand(row.tasks, -1).contiguous())

    return Task(images(SHOTS), images(row.queries))


class Side(NamedTuple):
    """What one library does: losses `[T]` with gradients left in `parameters`, an outer step, a draw."""

    parameters: list[nn.Parameter]
    losses: Callable[[Any], Tensor]
    draw: Callable[[], Any]
    adam: torch.optim.Optimizer

    def step(self, batch: Any) -> None:
        self.adam.zero_grad()
        self.losses(batch)
        self.adam.step()


def adam(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)  # torch's on all sides


def make_side(row: Row, side: str, data: str | None, folder: Path) -> Side:
    if side == "learn2learn":
        return learn2learn_side(row, folder)
    draw = our_pipeline(row, data)
    if side == "limit":
        return limit_side(row, draw)
    learner = our_learner(row)
    gradient = compiled_gradient_of(learner, learner.parameters()) if side == "compiled" else gradient_of(learner)
    parameters = list(learner.parameters())
    return Side(parameters, partial(gradient, row.tasks), draw, adam(parameters))


# ------------------------------------------------------------------------------------------------------- ours


def our_learner(row: Row) -> Learner:
    backbone = partial(network, row)
    if row.algo == "protonet":
        return ProtoNet(backbone, row.ways, task_loss(row))
    kind = ANIL if row.algo == "anil" else MAML
    numbers = {"inner_lr": row.inner_lr, "inner_steps": row.steps, "eval_steps": row.steps}
    return kind(backbone, row.ways, task_loss(row), **numbers, first_order=row.first_order)


def our_pipeline(row: Row, data: str | None) -> Callable[[], Batch]:
    if not row.drawn:
        return lambda: fixed_batch(row)
    omniglot = Omniglot(
        root=data,
        partition="maml",
        split_seed=0,
        ways=row.ways,
        shots=SHOTS,
        queries=row.queries,
        train_ways=row.ways,
        train_queries=row.queries,
        batch_size=64,
        device="cpu",
    )
    omniglot.prepare()
    return partial(omniglot.draw, "train", "episodes", row.tasks, torch.Generator().manual_seed(0))


def limit_side(row: Row, draw: Callable[[], Batch]) -> Side:
    """By hand (limit.py): weights of our backbone, tasks of our pipeline."""
    parameters = list(network(row, None if row.algo == "protonet" else row.ways).parameters())
    forward = {"sinusoid": limit.mlp, "omniglot": limit.conv4, "miniimagenet": limit.pooled}[row.data]

    def losses(batch: Task) -> Tensor:
        support, query = map(tuple, batch)
        if row.algo == "protonet":
            values = limit.protonet_losses(parameters, support, query)
        elif row.algo == "anil":
            values = limit.anil_losses(parameters, support, query, row.inner_lr, row.steps)
        else:
            values = limit.maml_losses(forward, parameters, support, query, row.inner_lr, row.steps, row.first_order)
        values.mean().backward()
        return values.detach()

    return Side(parameters, losses, draw, adam(parameters))


# ---------------------------------------------------------------------------------------------- learn2learn's


def learn2learn_network(row: Row) -> nn.Module:
    """The network its users take, with the weights of ours."""
    ours = network(row, row.ways)
    if row.data == "sinusoid":
        return ours
    from learn2learn.vision.models import MiniImagenetCNN, OmniglotCNN

    if row.data == "miniimagenet":
        theirs = MiniImagenetCNN(row.ways, hidden_size=32, embedding_size=32 * 25)
    else:
        theirs = OmniglotCNN(row.ways)
    assert isinstance(ours, Conv4)
    with torch.no_grad():
        for number, block in enumerate(conv_blocks(theirs), 1):
            for layer, name in ((block.conv, "conv"), (block.normalize, "norm")):
                weights = ours.blocks.get_submodule(f"{name}{number}").state_dict()
                layer.load_state_dict(weights, strict=False)  # its running statistics are not used
        theirs.classifier.load_state_dict(ours.head.state_dict())
    return theirs


def conv_blocks(net: Any) -> Any:
    """Of its image networks."""
    return net.base if hasattr(net, "base") else net.features


def in_our_order(row: Row, net: Any) -> list[nn.Parameter]:
    """Its parameters in the order of ours: its blocks register the norm before the convolution."""
    if row.data == "sinusoid":
        return list(net.parameters())
    layers = [layer for block in conv_blocks(net) for layer in (block.conv, block.normalize)]
    layers += [] if row.algo == "protonet" else [net.classifier]
    return [p for layer in layers for p in (layer.weight, layer.bias)]


def learn2learn_error(row: Row, net: Any) -> Callable[[Examples, Examples], Tensor]:
    """A task's error: MAML as in its maml_omniglot.py, ANIL as in anil_fc100.py, or its `PrototypicalClassifier`."""
    import learn2learn as l2l

    loss = task_loss(row)

    def adapted(learner: Any, support: Examples, query: Examples) -> Tensor:
        for _ in range(row.steps):
            learner.adapt(loss(learner(support.x), support.y))
        return loss(learner(query.x), query.y)

    def prototypes(support: Examples, query: Examples) -> Tensor:
        z = net.features(torch.cat([support.x, query.x]))
        n = len(support.x)
        return loss(l2l.nn.PrototypicalClassifier(z[:n], support.y)(z[n:]), query.y)

    if row.algo == "protonet":
        return prototypes
    if row.algo == "anil":
        head = l2l.algorithms.MAML(net.classifier, lr=row.inner_lr, first_order=row.first_order)
        embed = lambda part: Examples(net.features(part.x), part.y)  # noqa: E731
        return lambda support, query: adapted(head.clone(), embed(support), embed(query))
    maml = l2l.algorithms.MAML(net, lr=row.inner_lr, first_order=row.first_order)
    return lambda support, query: adapted(maml.clone(), support, query)


def learn2learn_side(row: Row, folder: Path) -> Side:
    """Its loop: a backward pass for each task, gradients over the number of tasks."""
    net = learn2learn_network(row)
    parameters, error = in_our_order(row, net), learn2learn_error(row, net)

    def losses(tasks: list[Task]) -> Tensor:
        errors = []
        for support, query in tasks:
            value = error(support, query)
            value.backward()
            errors.append(value.detach())
        for p in parameters:
            assert p.grad is not None
            p.grad.data.mul_(1.0 / len(tasks))
        return torch.stack(errors)

    return Side(parameters, losses, learn2learn_pipeline(row, folder), adam(parameters))


def task_list(batch: Task) -> list[Task]:
    """A batch as learn2learn's loop meets it: task after task."""
    support, query = (list(zip(*part, strict=True)) for part in batch)
    return [Task(Examples(*s), Examples(*q)) for s, q in zip(support, query, strict=True)]


def learn2learn_pipeline(row: Row, folder: Path) -> Callable[[], list[Task]]:
    """Its own benchmark's transforms (learn2learn/vision/benchmarks/omniglot_benchmark.py) over image files.

    But for RandomClassRotation, which rotates image by image through a sampling grid and would cost it more
    than all the rest; ours draws the rotated classes too.
    """
    if not row.drawn:
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
            l2l.data.transforms.FusedNWaysKShots(train, n=row.ways, k=shots),
            l2l.data.transforms.LoadData(train),
            l2l.data.transforms.RemapLabels(train),
            l2l.data.transforms.ConsecutiveLabels(train),
        ],
        num_tasks=20000,
    )
    in_support = torch.arange(row.ways * shots).remainder(shots) < SHOTS

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


class Worker:
    """A function in a process of its own, that goes on where the caller says so: what it yields comes back.

    Args:
        function: called with `arguments`; an iterator, advanced once for each `next`.
    """

    def __init__(self, threads: int, function: Callable, *arguments: Any) -> None:
        # Forked, for imports take seconds. This process computes nothing, whose threads a fork would not have.
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, threads, function, arguments), daemon=False)
        self.process.start()
        theirs.close()

    def next(self) -> Any:
        """What it yields next.

        Raises:
            RuntimeError: it failed, or is gone.
        """
        self.pipe.send("go")
        try:
            told, value = self.pipe.recv()
        except EOFError:
            raise RuntimeError("a process of the benchmark ended without a word") from None
        if not told:
            raise RuntimeError(value)
        return value

    def end(self) -> None:
        self.process.terminate()
        self.process.join()


def _serve(pipe: Connection, threads: int, function: Callable, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    values = function(*arguments)
    while True:
        try:
            pipe.recv()
            pipe.send((True, next(values)))
        except (EOFError, KeyboardInterrupt):
            return
        except BaseException:
            pipe.send((False, traceback.format_exc()))
            return


def timed(action: Callable[[], object], seconds: float, least: int) -> list[float]:
    """Times (s) of at least so many repetitions, and of so many seconds in all."""
    times: list[float] = []
    while len(times) < least or sum(times) < seconds:
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return times


def work(row: Row, side: str, seconds: float, data: str | None, folder: Path):
    """First what a side computes on the fixed tasks, and what that cost; then, round by round, its times (s)."""
    library = make_side(row, side, data, folder)
    fixed: Any = task_list(fixed_batch(row)) if side == "learn2learn" else fixed_batch(row)
    flops = 0
    if side == "learn2learn":
        with FlopCounterMode(display=False) as counter:
            library.losses(fixed)
        flops = counter.get_total_flops()
        library.adam.zero_grad()
    before, start = peak_mb(), time.perf_counter()
    losses = library.losses(fixed)
    told = {"first_call": time.perf_counter() - start, "flops": flops, "losses": losses.tolist()}
    gradient = torch.cat([p.grad.flatten() for p in library.parameters if p.grad is not None])
    yield {**told, "gradient": gradient.tolist()}

    def once() -> None:
        batch = library.sample() if row.drawn else fixed
        if row.algo != "draw":
            library.step(batch)

    for _ in range(2):
        once()
    while True:
        yield {"times": timed(once, seconds, 3), "peak_mb": peak_mb(), "growth_mb": peak_mb() - before}


def matrix_rate():
    """Floating-point operations a second of matrix products in float32, the median of many."""
    a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)
    while True:
        yield 2 * 1024**3 / statistics.median(timed(lambda: a @ b, 1.0, 10))


def compare(name: str, args: argparse.Namespace, folder: Path, rate: float) -> dict[str, Any]:
    """One row's sides, in turn, in several rounds."""
    row = ROWS[name]
    rounds, seconds = (1, 1.0) if args.quick else (3, 1.5)
    workers = {side: Worker(args.threads, work, row, side, seconds, args.data, folder) for side in row.sides}
    first, heard = {}, {side: [] for side in row.sides}
    try:
        for side, worker in workers.items():
            print(f"{name}: {side}", file=sys.stderr)
            first[side] = worker.next()
        for _ in range(rounds):
            for side, worker in workers.items():
                heard[side].append(worker.next())
    finally:
        for worker in workers.values():
            worker.end()
    sides: dict[str, dict[str, Any]] = {}
    referee = first["learn2learn"]
    for side, told in first.items():
        times = [t for each in heard[side] for t in each["times"]]
        middle = statistics.median(times)
        sides[side] = {
            "median_ms": 1000 * middle,
            "repetitions": len(times),
            "first_call_seconds": told["first_call"],
            "peak_mb": max(each["peak_mb"] for each in heard[side]),
            "growth_mb": max(each["growth_mb"] for each in heard[side]),
        }
        for what in ("losses", "gradient"):
            # Not by torch: a process that has computed on several threads must not fork.
            sides[side][f"{what}_relative_difference"] = math.dist(told[what], referee[what]) / math.hypot(
                *referee[what]
            )
    best = min(sides[side]["median_ms"] for side in ("eager", "compiled") if side in sides)
    ratios = {"faster": sides["learn2learn"]["median_ms"] / best}
    if "limit" in sides:
        ratios |= {
            "of_limit": best / sides["limit"]["median_ms"],
            "of_limit_eager": sides["eager"]["median_ms"] / sides["limit"]["median_ms"],
            "of_floor": best / (1000 * referee["flops"] / rate),
        }
    bars = {"bar": row.bar, "floor": row.floor}
    return {"name": name, "title": row.title, "gflop": referee["flops"] / 1e9, **bars, **ratios, "sides": sides}


# -------------------------------------------------------------------------------------------- every learner

# What all learners are given alike: small enough that the heaviest takes seconds.
FIVE = ["data.train_ways=5", "data.train_queries=5"]
SETTINGS = {
    "sinusoid": ["data=sinusoid", "run.meta_batch_size=25"],
    "Omniglot conv4-64": ["data=omniglot", "data.partition=small", *FIVE, "run.meta_batch_size=8"],
    "mini-ImageNet conv4-32": ["data=miniimagenet", *FIVE, "run.meta_batch_size=2"],
}


def outer_steps(algo: str, setting: str, seconds: float, root: str | None):
    """Times of an algorithm's outer steps as `metarun` makes them, once; or why there are none."""
    from hydra import compose, initialize_config_dir

    from metarun.experiment.build import build
    from metarun.experiment.choices import CONF
    from metarun.experiment.errors import ConfigError
    from metarun.training.loop import TrainState, fit

    with initialize_config_dir(str(CONF), version_base="1.3"):
        own = [f"data.root={root}"] if root and setting != "sinusoid" else []
        words = [f"algo={algo}", *SETTINGS[setting], "device=cpu", "tracker=none", *own]
        try:
            cfg = compose("config", words)
            parts = build(cfg, {"algo": algo, "data": setting, "backbone": setting})
            if not parts.learner.stages:
                raise ConfigError("not trained")
            parts.data.prepare()
        except (ConfigError, FileNotFoundError) as error:
            yield {"refused": str(error)}
            return
    training = TrainState.create(parts.learner, parts.meta_optimizer, torch.device("cpu"), 0)
    drawing: list[float] = []
    draw = parts.data.sample

    def watched(*arguments: Any) -> Batch:
        start = time.perf_counter()
        batch = draw(*arguments)
        drawing.append(time.perf_counter() - start)
        return batch

    parts.data.sample = watched  # type: ignore[method-assign]
    before, times = peak_mb(), []
    for step in fit(training, parts.data, parts.meta_optimizer, 10**6, cfg.run.meta_batch_size):
        times.append(step.seconds)
        enough = len(times) >= 4 and sum(times[1:]) > seconds
        if enough or sum(times) > 6 * seconds:
            break
    fixed_shapes = times[1:] or times
    yield {
        "step_ms": 1000 * statistics.median(fixed_shapes),
        "draw_ms": 1000 * statistics.median(drawing[1:] or drawing),
        "first_ms": 1000 * times[0],
        "repetitions": len(fixed_shapes),
        "growth_mb": peak_mb() - before,
        "inner_steps": parts.learner.inner_steps,
    }


def every_learner(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Each algorithm in each setting that it takes, one process after the other."""
    from metarun.experiment.choices import names

    seconds = 0.3 if args.quick else 0.8
    found = []
    for algo in names("algo"):
        for setting in SETTINGS:
            print(f"{algo}: {setting}", file=sys.stderr)
            worker = Worker(args.threads, outer_steps, algo, setting, seconds, args.data)
            try:
                found.append({"algo": algo, "setting": setting, **worker.next()})
            except RuntimeError as error:
                found.append({"algo": algo, "setting": setting, "failed": str(error)})
            finally:
                worker.end()
    return found


# -------------------------------------------------------------------------------------------------- memory


def growing(tasks: int, steps: int, chunk: int):
    """Memory (MB) and time (s) of an outer step of MAML with conv4-64 and 5 queries, in chunks of so many tasks."""
    row = ROWS["maml"]._replace(tasks=tasks, steps=steps, queries=5)
    batch = fixed_batch(row)
    learner = our_learner(row)
    gradient = gradient_of(learner)
    before = peak_mb()

    def step() -> None:
        learner.zero_grad()
        for at in range(0, tasks, chunk):
            gradient(tasks, slice_tasks(batch, at, at + chunk))

    seconds = statistics.median(timed(step, 0.5, 2))
    yield {"tasks": tasks, "inner_steps": steps, "chunk": chunk, "growth_mb": peak_mb() - before, "ms": 1000 * seconds}


def memory(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Against the meta-batch, inner steps, and `device.task_micro_batch`."""
    found = []
    for steps in (1, 5):
        for tasks in (4, 16, 32):
            for chunk in sorted({4, tasks}, reverse=True):
                print(f"memory: {tasks} tasks, {steps} steps, chunks of {chunk}", file=sys.stderr)
                worker = Worker(args.threads, growing, tasks, steps, chunk)
                found.append(worker.next())
                worker.end()
    return found


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


def verdict(ratio: float, bar: float | None, most: bool = False) -> str:
    """A ratio, and whether it reaches the bar, or `most` stays within it."""
    if bar is None:
        return f"{ratio:.2f}x"
    good = ratio <= bar if most else ratio >= bar
    return f"{ratio:.2f}x ({('within' if most else 'reaches') if good else 'MISSES'} {bar:g}x)"


def table(rows: list[dict[str, Any]]) -> str:
    """The first table, Markdown."""
    lines = [
        "| what | learn2learn, ms | limit, ms | eager, ms | compiled, ms | faster | of the limit (eager) "
        "| of the floor | first call compiled, s | difference of losses, gradient | memory growth, MB: each side |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        sides = row["sides"]
        cells = [row["title"], *[f"{sides[s]['median_ms']:.2f}" if s in sides else "" for s in SIDES]]
        cells.append(verdict(row["faster"], row["bar"]))
        if "limit" in sides:
            cells.append(f"{verdict(row['of_limit'], 1.3, most=True)} ({row['of_limit_eager']:.2f}x)")
            cells.append(verdict(row["of_floor"], row["floor"], most=True))
            cells.append(f"{sides['compiled']['first_call_seconds']:.0f}")
        else:
            cells += ["", "", ""]
        others = [side for name, side in sides.items() if name != "learn2learn"]
        worst = [max(side[f"{what}_relative_difference"] for side in others) for what in ("losses", "gradient")]
        cells.append("" if row["name"] == "draw" else ", ".join(f"{value:.0e}" for value in worst))
        cells.append(", ".join(f"{side['growth_mb']:.0f}" for side in sides.values()))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def learners_table(found: list[dict[str, Any]]) -> str:
    """The second table, Markdown: of each setting the step with its data, the draw alone, the memory."""
    of = {(each["algo"], each["setting"]): each for each in found}
    algos = list(dict.fromkeys(each["algo"] for each in found))
    head = [
        "learner",
        *[f"{setting}: step, ms (data; MB)" for setting in SETTINGS],
        "times faster than learn2learn's own",
    ]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for algo in algos:
        cells, faster = [algo], []
        for setting in SETTINGS:
            each, theirs = of[algo, setting], of.get((f"learn2learn/{algo}", setting), {})
            if "step_ms" in each:
                cells.append(f"{each['step_ms']:.1f} ({each['draw_ms']:.1f}; {each['growth_mb']:.0f})")
            else:
                cells.append("FAILED" if "failed" in each else "")
            if "step_ms" in theirs and "step_ms" in each:
                faster.append(f"{theirs['step_ms'] / each['step_ms']:.1f}")
        if any(cells[1:]):
            lines.append("| " + " | ".join([*cells, ", ".join(faster)]) + " |")
    return "\n".join(lines)


def memory_table(found: list[dict[str, Any]]) -> str:
    """The third table, Markdown."""
    lines = [
        "| MAML, conv4-64, 5 queries: tasks | inner steps | tasks in a chunk | memory, MB | ms |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {f['tasks']} | {f['inner_steps']} | {f['chunk']} | {f['growth_mb']:.0f} | {f['ms']:.0f} |" for f in found
    ]
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--threads", type=int, default=2, help="threads of every process (default 2)")
    parser.add_argument("--quick", action="store_true", help="one round of each, shorter")
    choices = [*ROWS, "learners", "memory"]
    parser.add_argument("--only", nargs="+", choices=choices, default=choices, help="rows and tables to measure")
    parser.add_argument("--data", help="folder that holds Omniglot (else METARUN_DATA, else ./data)")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser.parse_args()


def measure(args: argparse.Namespace, found: dict[str, Any]) -> None:
    """Fill `found`; after every row it is written, so that a run cut short has left what it measured."""
    import learn2learn  # noqa: F401  (once for all processes)

    def write() -> None:
        if args.json:
            args.json.write_text(json.dumps(found, indent=2) + "\n")

    rating = Worker(args.threads, matrix_rate)
    found["conditions"]["gflops"] = round(rating.next() / 1e9, 1)
    rating.end()
    names = [name for name in args.only if name in ROWS]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if any(ROWS[name].drawn for name in names):
            lay_out_images(args.data, folder)
        for name in names:
            found["rows"].append(compare(name, args, folder, 1e9 * found["conditions"]["gflops"]))
            write()
    if "learners" in args.only:
        found["learners"] = every_learner(args)
    if "memory" in args.only:
        found["memory"] = memory(args)
    write()


def main() -> None:
    args = arguments()
    found: dict[str, Any] = {"conditions": conditions(args.threads), "rows": [], "learners": [], "memory": []}
    measure(args, found)
    print(", ".join(f"{name} {value}" for name, value in found["conditions"].items()))
    for what, show in (("rows", table), ("learners", learners_table), ("memory", memory_table)):
        if found[what]:
            print(f"\n{show(found[what])}")


if __name__ == "__main__":
    main()
