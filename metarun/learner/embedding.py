"""The base class of learners that compare embeddings: a network embeds all images once, a head classifies embeddings.

A paper of this kind defines a head by the embedded support set. A subclass implements it for one task:

    support set D -> z = f(D) -> head(z, y);   class scores of a query x: head(f(x))

In training, support and query images go through the network in one batch, as in the official codes of this family, so
that batch norm (usually of mode `running`) normalises them together. Each task has its own statistics.

Differences from the paper: stated by the algorithms that use it; this is not an algorithm of its own.
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
from metarun.layers.norm import (
    MODES,
    last_statistics,
    recording,
    rows_of_tasks,
    statistics_of_first,
    uses_support_statistics,
)
from metarun.learner.learner import Backbone, Learner
from metarun.learner.prediction import Prediction, Predictor
from metarun.tasks import Batch, Examples, Kind, Task, TaskLoss


class EpisodeRandomInputs(NamedTuple):
    """Random inputs of a training episode.

    Attributes:
        masks: of each of the network's DropBlocks, `[n + m, ...]` for n support and m query images.
        head: random inputs of the head.
    """

    masks: list[Tensor]
    head: Any


class Embedding(Learner):
    """An embedding network f, and a head that is made from a support set without gradient steps.

    The weights do not depend on the number of classes: `ways` is that of the current tasks (see `Learner`).

    Args:
        backbone: makes f, `backbone(outputs=None)`, from inputs `[n, ...]` to embeddings `[n, d]`.
        ways: classes of a task, until the training loop or evaluation sets them.
        loss: the task loss.
    """

    task_types: ClassVar[tuple[Kind, ...]] = ("classification",)
    batch_norm_modes: ClassVar[tuple[str, ...]] = MODES
    supports_dropblock: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, ways: int, loss: TaskLoss) -> None:
        super().__init__(loss)
        # Channels last: a step of conv4 took .24 s with it and .35 s without (compiled, two threads, 360 images).
        self.net = backbone(outputs=None).to(memory_format=torch.channels_last)
        self.ways = ways

    @abstractmethod
    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        """Make a predictor of embedded queries `[m, d]` from the embedded support set, `x [n, d]` and `y [n]`."""

    def adapt(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        if isinstance(random_inputs, EpisodeRandomInputs):
            random_inputs = random_inputs.head  # masks are for `forward`: here nothing is dropped
        embed = self.functional_predictor(self.net, dict(self.net.named_parameters()), support)
        head = self.head(Examples(cast(Tensor, embed(support.x)), support.y), random_inputs)
        return lambda x: head(cast(Tensor, embed(x)))

    def forward(self, batch: Batch, random_inputs: Any = (), objective: str = "all") -> Tensor:
        """As in `Learner`; the images of all tasks, which share the network's weights, go through it as one batch."""
        if not isinstance(batch, Task):
            return super().forward(batch, random_inputs, objective)
        masks, random_inputs = random_inputs if isinstance(random_inputs, EpisodeRandomInputs) else ((), random_inputs)
        heads = [module for name, module in self.named_children() if name != "net"]
        return self.with_running_stats(heads, self.head_loss, self.embedded(batch, masks), random_inputs)

    def meta_loss(self, task: Task, random_inputs: Any = ()) -> Tensor:
        return self(*pytree.tree_map(lambda leaf: leaf.unsqueeze(0), (task, random_inputs)))[0]

    def embedded(self, batch: Task, masks: Sequence[Tensor] = ()) -> Task:
        """The same tasks with embeddings in place of images; each task has its own batch statistics."""
        tasks, n = batch.support.y.shape
        reference = statistics_of_first(self.net, n) if uses_support_statistics(self.net) else nullcontext()
        with reference, dropping(self.net, [mask.flatten(0, 1) for mask in masks], tasks):
            z = self.embed(torch.cat([batch.support.x, batch.query.x], 1))
        return Task(Examples(z[:, :n], batch.support.y), Examples(z[:, n:], batch.query.y))

    def embed(self, x: Tensor) -> Tensor:
        """Embed images of several tasks, `[T, n, ...]` to `[T, n, d]`, as one batch, each by its task's statistics."""
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
        """The loss on queries that the outer problem minimises; the task loss, unless a paper has its own."""
        return self.loss(prediction, y)

    def map_tasks(self, f: Callable, *batched: Any) -> Any:
        """As in `Learner`, but evaluation on a CPU is sequential: conv4 under vmap takes twice as long."""
        if torch.is_grad_enabled() or self.progress.device.type != "cpu":
            return super().map_tasks(f, *batched)
        return self.map_tasks_sequentially(f, *batched)

    def random_inputs(self, batch: Batch, steps: int, generator: torch.Generator) -> Any:
        del steps  # a head takes none
        head = self.head_random_inputs(batch, generator)
        if not (self.training and drop_blocks(self.net) and isinstance(batch, Task)):
            return head
        tasks, support, query = *batch.support.y.shape, batch.query.y.shape[1]
        return EpisodeRandomInputs(draw_masks(self.net, (tasks, support + query), self.progress, generator), head)

    def head_random_inputs(self, batch: Batch, generator: torch.Generator) -> Any:
        """Draw the random inputs of each task's head, every leaf `[T, ...]`; see `Learner.random_inputs`."""
        del batch, generator
        return ()


def with_output_width(width: int, backbone: Backbone) -> Backbone:
    """A backbone that ends in a linear layer of that width, also when `Embedding` asks for one without a last layer."""
    return lambda **_outputs: backbone(outputs=width)


def feature_dim(backbone: Backbone) -> int:
    """The width of a network's features, read off the last layer of a network that is made and discarded."""
    return cast(nn.Linear, backbone(outputs=1).head).in_features


def one_hot(y: Tensor, ways: int, dtype: torch.dtype) -> Tensor:
    """One-hot labels `[n, ways]`. Use them to select classes under vmap, where indexing by data is not possible."""
    return (y[:, None] == torch.arange(ways, device=y.device)).to(dtype)


def class_means(z: Tensor, y: Tensor, ways: int) -> Tensor:
    """The mean of z `[n, d]` over the examples of each class, `[ways, d]`; NaN for a class without examples."""
    member = one_hot(y, ways, z.dtype)
    return (member / member.sum(0)).T @ z


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances || a_i - b_j ||^2 of a `[m, d]` and b `[n, d]`, `[m, n]`."""
    # Expanded, since differences would take m n d numbers; about the mean of b, where rounding errors are smallest.
    origin = b.mean(0)
    a, b = a - origin, b - origin
    return a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T
