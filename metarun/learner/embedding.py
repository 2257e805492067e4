"""What learners that compare embeddings share: images are embedded once, a head classifies in the space of embeddings.

A paper of this kind says how a head comes from the embedded support set. It is written for one task, over embeddings:

    support set D -> z = f(D) -> head(z, y);   class scores of a query x: head(f(x))

In training support and query images go through the network in one batch, as the official codes of this family do, so
that batch norm (usually `running`) sees them together; statistics are each task's own.

Differences from the paper: stated by the algorithms that use it; this is no algorithm of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from metarun.layers.drop_block import draw_masks, drop_blocks, dropping
from metarun.layers.norm import last_statistics, recording, rows_of_tasks, statistics_of_first, uses_support_statistics
from metarun.learner.learner import Backbone, Learner
from metarun.learner.prediction import Prediction, Predictor
from metarun.tasks import Batch, Examples, Kind, Task, TaskLoss


class EpisodeRandomInputs(NamedTuple):
    """What a training task draws at random: masks of the network's DropBlocks, `[n + m, ...]` each, and the head's."""

    masks: list[Tensor]
    head: Any


class Embedding(Learner):
    """An embedding network f, and a head that is made from a support set without gradient steps.

    The weights know nothing of the number of classes: `ways` is that of the tasks at hand (see `Learner`).

    Args:
        backbone: makes f, `backbone(outputs=None)`, from inputs `[n, ...]` to embeddings `[n, d]`.
        ways: classes of a task, until loop or evaluation say otherwise.
        loss: the task loss.
    """

    task_types: ClassVar[tuple[Kind, ...]] = ("classification",)
    supports_dropblock: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, ways: int, loss: TaskLoss) -> None:
        super().__init__(loss)
        # Channels last: a step of conv4 took .35 s in place of .24 without it (compiled, two threads, 360 images).
        self.net = backbone(outputs=None).to(memory_format=torch.channels_last)
        self.ways = ways

    @abstractmethod
    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        """From the embedded support set, `x [n, d]` and `y [n]`, to a function of embedded queries `[m, d]`."""

    def adapt(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        random_inputs = (
            random_inputs.head if isinstance(random_inputs, EpisodeRandomInputs) else random_inputs
        )  # dropped is in training only
        embed = self.functional_predictor(self.net, dict(self.net.named_parameters()), support)
        head = self.head(Examples(cast(Tensor, embed(support.x)), support.y), random_inputs)
        return lambda x: head(cast(Tensor, embed(x)))

    def forward(self, batch: Batch, random_inputs: Any = (), objective: str = "all") -> Tensor:
        """As in `Learner`; the images of all tasks go through the network as one batch, for they share its weights."""
        if not isinstance(batch, Task):
            return super().forward(batch, random_inputs, objective)
        masks, random_inputs = random_inputs if isinstance(random_inputs, EpisodeRandomInputs) else ((), random_inputs)
        heads = [module for name, module in self.named_children() if name != "net"]
        return self.with_running_stats(heads, self.head_loss, self.embedded(batch, masks), random_inputs)

    def meta_loss(self, task: Task, random_inputs: Any = ()) -> Tensor:
        return self(*pytree.tree_map(lambda leaf: leaf.unsqueeze(0), (task, random_inputs)))[0]

    def embedded(self, batch: Task, masks: Sequence[Tensor] = ()) -> Task:
        """The same tasks with embeddings for images; each task has batch statistics of its own."""
        n = batch.support.y.shape[1]
        reference = statistics_of_first(self.net, n) if uses_support_statistics(self.net) else nullcontext()
        with reference, dropping(self.net, [mask.flatten(0, 1) for mask in masks]):
            z = self.embed(torch.cat([batch.support.x, batch.query.x], 1))
        return Task(Examples(z[:, :n], batch.support.y), Examples(z[:, n:], batch.query.y))

    def embed(self, x: Tensor) -> Tensor:
        """Images of several tasks `[T, n, ...]` to `[T, n, d]`, as one batch whose statistics are each task's own."""
        tasks = len(x)
        with rows_of_tasks(self.net, tasks), recording(self.net) as norms:
            z = self.net(x.flatten(0, 1)).unflatten(0, (tasks, -1))
            for norm, (mean, var) in zip(norms, last_statistics(norms), strict=False):
                norm.collect_stats(mean.view(tasks, -1), var.view(tasks, -1))
        return z

    def head_loss(self, task: Task, random_inputs: Any = ()) -> Tensor:
        """The outer problem of one task of embeddings."""
        return self.query_loss(self.head(task.support, random_inputs)(task.query.x), task.query.y)

    def query_loss(self, prediction: Prediction, y: Tensor) -> Tensor:
        """What the outer problem minimises on queries; the task loss, unless a paper has its own."""
        return self.loss(prediction, y)

    def map_tasks(self, f: Callable, *batched: Any) -> Any:
        """As in `Learner`, but on a CPU evaluation goes task after task: conv4 under vmap takes twice as long."""
        if torch.is_grad_enabled() or self.progress.device.type != "cpu":
            return super().map_tasks(f, *batched)
        return self.map_tasks_sequentially(f, *batched)

    def random_inputs(self, batch: Batch, steps: int, generator: torch.Generator) -> Any:
        del steps  # takes none
        head = self.head_random_inputs(batch, generator)
        if not (self.training and drop_blocks(self.net) and isinstance(batch, Task)):
            return head
        tasks, support, query = *batch.support.y.shape, batch.query.y.shape[1]
        return EpisodeRandomInputs(draw_masks(self.net, (tasks, support + query), self.progress, generator), head)

    def head_random_inputs(self, batch: Batch, generator: torch.Generator) -> Any:
        """What the head of each task draws at random, every leaf `[T, ...]`; see `Learner.noise`."""
        del batch, generator
        return ()


def with_output_width(width: int, backbone: Backbone) -> Backbone:
    """A backbone that ends in a linear layer of that width, where an `Embedding` asks for one that ends in none."""
    return lambda **_asked: backbone(outputs=width)


def feature_dim(backbone: Backbone) -> int:
    """Of what a network's last layer is given; one with such a layer tells, and is thrown away."""
    return cast(nn.Linear, backbone(outputs=1).head).in_features


def one_hot(y: Tensor, ways: int, dtype: torch.dtype) -> Tensor:
    """`[n, ways]`, one-hot; under vmap no class can be picked out by an index that depends on the data."""
    return (y[:, None] == torch.arange(ways, device=y.device)).to(dtype)


def class_means(z: Tensor, y: Tensor, ways: int) -> Tensor:
    """Mean of z `[n, d]` over the examples of each class, `[ways, d]`; NaN for a class that has none."""
    member = one_hot(y, ways, z.dtype)
    return (member / member.sum(0)).T @ z


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|| a_i - b_j ||^2 of a `[m, d]` and b `[n, d]`, `[m, n]`."""
    # Multiplied out: differences would take m n d numbers. About the mean of b, where rounding costs least.
    origin = b.mean(0)
    a, b = a - origin, b - origin
    return a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T
