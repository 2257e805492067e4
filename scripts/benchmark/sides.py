"""What is timed: the rows of the table, and what each side computes in one of them.

The sides `eager` and `compiled` are metarun's own. `limit` is the same outer step written out by hand
(handwritten.py), with the weights of our backbone and the tasks of our pipeline. `learn2learn` is written as its
examples are: clone, adapt, backward of each task's error, gradients over the number of tasks, step.
"""

from __future__ import annotations

import random
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun.algos.anil import ANIL
from metarun.algos.maml import MAML
from metarun.algos.protonet import ProtoNet
from metarun.backbones.conv4 import Conv4
from metarun.backbones.mlp import MLP
from metarun.data.omniglot import Omniglot
from metarun.data.roots import data_roots
from metarun.data.sinusoid import Sinusoid
from metarun.learner.learner import Learner
from metarun.tasks import Batch, Examples, Task
from metarun.training.gradients import compiled_gradient_of, gradient_of
from scripts.benchmark import handwritten

SHOTS = 1
SIDES = ("learn2learn", "limit", "eager", "compiled")


class Row(NamedTuple):
    """One row of the first table: what is timed, and how fast metarun must be."""

    title: str
    algo: str  # maml, anil, protonet, or sampling: tasks are only sampled
    data: str  # sinusoid, omniglot, miniimagenet; images of random pixels unless they are sampled
    tasks: int
    ways: int
    queries: int  # per class; points of a sinusoid
    inner_lr: float = 0.0
    steps: int = 0
    first_order: bool = False
    sampled: bool = False  # every step samples a new meta-batch
    bar: float | None = None  # at least: learn2learn's time over the faster of ours
    floor: float | None = None  # at most: the faster of ours over the counted floor

    @property
    def sides(self) -> tuple[str, ...]:
        return ("learn2learn", "eager") if self.algo == "sampling" else SIDES


CONV = "Omniglot conv4-64, 5-way 1-shot, 32 tasks, 1 step"
ROWS = {
    "sinusoid-1": Row("MAML, sinusoid, 25 tasks, 1 step", "maml", "sinusoid", 25, 1, 10, 0.01, 1, bar=30),
    "sinusoid-5": Row("MAML, sinusoid, 25 tasks, 5 steps", "maml", "sinusoid", 25, 1, 10, 0.01, 5, bar=40),
    "maml": Row(f"MAML, {CONV}, 1 query", "maml", "omniglot", 32, 5, 1, 0.4, 1, floor=3),
    "fomaml": Row("the same, first order", "maml", "omniglot", 32, 5, 1, 0.4, 1, first_order=True),
    "maml-15": Row(f"MAML, {CONV}, 15 queries", "maml", "omniglot", 32, 5, 15, 0.4, 1),
    "maml-data": Row(f"MAML, {CONV}, 1 query, with data", "maml", "omniglot", 32, 5, 1, 0.4, 1, sampled=True, bar=5),
    "anil-data": Row(f"ANIL, {CONV}, 1 query, with data", "anil", "omniglot", 32, 5, 1, 0.5, 1, sampled=True, bar=3),
    "protonet-data": Row(
        "ProtoNet, Omniglot conv4-64, 20-way 1-shot, 5 queries, with data",
        "protonet", "omniglot", 1, 20, 5, sampled=True, bar=3,
    ),
    "mini": Row(
        "MAML, mini-ImageNet conv4-32, 5-way 1-shot, 2 tasks, 5 steps, 5 queries",
        "maml", "miniimagenet", 2, 5, 5, 0.01, 5,
    ),
    "sampling": Row(
        "Omniglot's data alone, 32 tasks, 15 queries", "sampling", "omniglot", 32, 5, 15, sampled=True, bar=100
    ),
}  # fmt: skip

# The settings that every learner is timed in: small enough that the heaviest step takes seconds.
FIVE = ["data.train_ways=5", "data.train_queries=5"]
SETTINGS = {
    "sinusoid": ["data=sinusoid", "run.meta_batch_size=25"],
    "Omniglot conv4-64": ["data=omniglot", "data.partition=small", *FIVE, "run.meta_batch_size=8"],
    "mini-ImageNet conv4-32": ["data=miniimagenet", *FIVE, "run.meta_batch_size=2"],
}


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
    """The tasks that all sides are compared on, and timed on where a step samples none."""
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
    """One library on one row.

    Attributes:
        parameters: meta-parameters, in the order of ours.
        losses: losses `[T]` of a batch; leaves the meta-gradient in the parameters.
        sample: the next meta-batch.
        optimizer: of the parameters.
    """

    parameters: list[nn.Parameter]
    losses: Callable[[Any], Tensor]
    sample: Callable[[], Any]
    optimizer: torch.optim.Optimizer

    def step(self, batch: Any) -> None:
        """One outer step."""
        self.optimizer.zero_grad()
        self.losses(batch)
        self.optimizer.step()


def adam(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)  # torch's on all sides


def make_side(row: Row, side: str, data: str | None, folder: Path) -> Side:
    """One side of a row.

    Args:
        row: what is timed.
        side: one of `SIDES`.
        data: folder that holds Omniglot, for our pipeline; None: the usual ones.
        folder: holds the images of `lay_out_images`, for learn2learn's pipeline.
    """
    if side == "learn2learn":
        return learn2learn_side(row, folder)
    sample = our_pipeline(row, data)
    if side == "limit":
        return limit_side(row, sample)
    learner = our_learner(row)
    gradient = compiled_gradient_of(learner, learner.parameters()) if side == "compiled" else gradient_of(learner)
    parameters = list(learner.parameters())
    return Side(parameters, partial(gradient, row.tasks), sample, adam(parameters))


# ------------------------------------------------------------------------------------------------------- ours


def our_learner(row: Row) -> Learner:
    backbone = partial(network, row)
    if row.algo == "protonet":
        return ProtoNet(backbone, row.ways, task_loss(row))
    learner_class = ANIL if row.algo == "anil" else MAML
    return learner_class(
        backbone,
        row.ways,
        task_loss(row),
        inner_lr=row.inner_lr,
        inner_steps=row.steps,
        eval_steps=row.steps,
        first_order=row.first_order,
    )


def our_pipeline(row: Row, data: str | None) -> Callable[[], Batch]:
    if not row.sampled:
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
    return partial(omniglot.sample, "train", "episodes", row.tasks, torch.Generator().manual_seed(0))


def limit_side(row: Row, sample: Callable[[], Batch]) -> Side:
    """Outer steps written out by hand, with the weights of our backbone and the tasks of our pipeline."""
    parameters = list(network(row, None if row.algo == "protonet" else row.ways).parameters())
    forwards = {"sinusoid": handwritten.mlp, "omniglot": handwritten.conv4, "miniimagenet": handwritten.pooled}
    forward = forwards[row.data]

    def losses(batch: Task) -> Tensor:
        support, query = batch
        if row.algo == "protonet":
            values = handwritten.protonet_losses(parameters, support, query)
        elif row.algo == "anil":
            values = handwritten.anil_losses(parameters, support, query, row.inner_lr, row.steps)
        else:
            values = handwritten.maml_losses(
                forward, parameters, support, query, row.inner_lr, row.steps, row.first_order
            )
        values.mean().backward()
        return values.detach()

    return Side(parameters, losses, sample, adam(parameters))


# ---------------------------------------------------------------------------------------------- learn2learn's


def learn2learn_network(row: Row) -> nn.Module:
    """The network that its users take, with the weights of ours."""
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
    """The convolutional blocks of its image networks."""
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

    def adapted_error(learner: Any, support: Examples, query: Examples) -> Tensor:
        for _ in range(row.steps):
            learner.adapt(loss(learner(support.x), support.y))
        return loss(learner(query.x), query.y)

    def prototype_error(support: Examples, query: Examples) -> Tensor:
        z = net.features(torch.cat([support.x, query.x]))
        n = len(support.x)
        return loss(l2l.nn.PrototypicalClassifier(z[:n], support.y)(z[n:]), query.y)

    def embed(examples: Examples) -> Examples:
        return Examples(net.features(examples.x), examples.y)

    if row.algo == "protonet":
        return prototype_error
    if row.algo == "anil":
        head = l2l.algorithms.MAML(net.classifier, lr=row.inner_lr, first_order=row.first_order)
        return lambda support, query: adapted_error(head.clone(), embed(support), embed(query))
    maml = l2l.algorithms.MAML(net, lr=row.inner_lr, first_order=row.first_order)
    return lambda support, query: adapted_error(maml.clone(), support, query)


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
    """A batch in the form of learn2learn's loop: task after task."""
    support, query = (list(zip(*examples, strict=True)) for examples in batch)
    return [Task(Examples(*s), Examples(*q)) for s, q in zip(support, query, strict=True)]


def learn2learn_pipeline(row: Row, folder: Path) -> Callable[[], list[Task]]:
    """The transforms of its own benchmark (learn2learn/vision/benchmarks/omniglot_benchmark.py) over image files.

    RandomClassRotation is left out: it rotates image by image through a sampling grid and would cost it more than
    all the rest. Ours samples the rotated classes too.
    """
    if not row.sampled:
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
    # With the label of every image it need not open them all at every start.
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

    def sample() -> list[Task]:
        tasks = []
        for _ in range(row.tasks):
            x, y = taskset.sample()
            support, query = (Examples(x[rows], y[rows]) for rows in (in_support, ~in_support))
            tasks.append(Task(support, query))
        return tasks

    return sample


def lay_out_images(data: str | None, folder: Path) -> None:
    """Write `folder/images/ALPHABET.CHARACTER/*.png` out of the first Omniglot there is, zips or folders.

    Raises:
        SystemExit: there is none.
    """
    names = ("omniglot_png.zip", "images_background.zip", "images_evaluation.zip")
    places = [base / sub for base in data_roots(data) for sub in ("", "omniglot", "omniglot-py")]
    for place in places:
        archives = [place / name for name in names if (place / name).is_file()]
        source = folder / "extracted" if archives else place
        for path in archives:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(source)
        drawings = [*source.glob("images_*/*/*/*.png")]
        for drawing in drawings:
            character = folder / "images" / f"{drawing.parts[-3]}.{drawing.parts[-2]}"
            character.mkdir(parents=True, exist_ok=True)
            (drawing.replace if archives else partial(shutil.copy, drawing))(character / drawing.name)
        if drawings:
            return
    sys.exit(
        f"no Omniglot in {', '.join(map(str, places))}; pass its folder with --data, or choose other rows with --only"
    )
