"""What a task is, and what a distribution of tasks offers.

Everything a learner sees is a NamedTuple of tensors, hence a pytree: `torch.func.vmap` maps over it, and the
loop moves, chunks and shards it without knowing what is inside. A *batch* is the same structure with a leading
task dimension T on every leaf.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from metarun.sampling import stream_generator

Split = Literal["train", "val", "test"]
Kind = Literal["classification", "regression", "verification"]
TaskLoss = Callable[[Any, Tensor], Tensor]

BLOCK = 20  # held-out tasks are drawn in blocks of this many, each from its own seed


class Examples(NamedTuple):
    """Inputs `x [n, ...]` and targets `y`: class indices `[n]` (int64) or values `[n, d]`.

    As a batch of episodes the leaves lead with T. A `batches` batch is an `Examples` too: `x [T, b, ...]`,
    `y [T, b]` with the class index global to the part it comes from.
    """

    x: Tensor
    y: Tensor


class Task(NamedTuple):
    """One episode: adapt on `support`, be judged on `query`."""

    support: Examples
    query: Examples


class Pairs(NamedTuple):
    """A mini-batch of pairs `x [b, 2, ...]` and whether both are of one class: `y [b]` (int64), 1 same, 0 different."""

    x: Tensor
    y: Tensor


class Presentations(NamedTuple):
    """Examples shown one by one, `x [n, ...]`, their labels `y [n]` told one step late, at the next presentation.

    `judged [n]` (bool) marks those that the headline is taken at: where `shots` of the class have been seen before.
    """

    x: Tensor
    y: Tensor
    scored: Tensor


class TaskAndBatch(NamedTuple):
    """One episode, and beside it a flat mini-batch of the same part: what `episodes_and_batches` draws."""

    support: Examples
    query: Examples
    batch: Examples


class TaskOfClasses(NamedTuple):
    """One episode and the classes of its ways, `[ways]` (int64), numbered as in a flat stream of the same part."""

    support: Examples
    query: Examples
    classes: Tensor


Batch = Task | TaskAndBatch | TaskOfClasses | Pairs | Presentations | Examples


class DataError(ValueError):
    """Data that is missing or unusable; the message says what was looked for, where, and what to do."""


def pair_loss(scores: Tensor, y: Tensor) -> Tensor:
    """Mean binary cross-entropy of scores `[b]`, taken for logits of `y [b]` = 1 (same)."""
    return F.binary_cross_entropy_with_logits(scores, y.to(scores.dtype))


LOSSES: dict[Kind, TaskLoss] = {
    "classification": F.cross_entropy,
    "regression": F.mse_loss,
    "verification": pair_loss,
}
HEADLINES: dict[Kind, str] = {"classification": "accuracy", "regression": "mse", "verification": "auc"}


class TaskSet(ABC):
    """A distribution of tasks in three parts, `train`, `val` and `test`.

    Constructing one is cheap and touches no file: data is loaded at the first draw (or by `prepare`), so that a
    trained learner can be loaded where its data is not.

    Class attributes
        kind: what a task asks for; it selects loss and headline metric.
        offers: the streams that some part of this data set can draw.
        evaluation_stream: the stream that learners are validated and tested on, unless they name one of their own.
        varies: its constructor's arguments that change values but no shape, so that fused replicas may differ in them.
    """

    kind: ClassVar[Kind]
    streams: ClassVar[tuple[str, ...]] = ("episodes",)
    evaluation_stream: ClassVar[str] = "episodes"
    fusable_args: ClassVar[tuple[str, ...]] = ()

    device: torch.device

    @abstractmethod
    def in_shape(self, stream: str = "episodes") -> tuple[int, ...]:
        """Shape of one input `x` of a stream, or of each of a pair, without batch dimensions, e.g. `(1, 28, 28)`."""

    @abstractmethod
    def outputs(self, split: Split, stream: str = "episodes") -> int:
        """Width of a prediction: ways, the classes of a flat stream, the dimension of `y`, or 1, a pair's score."""

    @abstractmethod
    def sample(self, split: Split, stream: str, tasks: int, generator: torch.Generator) -> Batch:
        """A batch of `tasks` tasks (or flat mini-batches) on `self.device`; all randomness from `generator`.

        Raises
            DataError: the data is missing, or the part holds too few classes or examples.
            ValueError: the stream is not offered.
        """

    def sample_classes(self, split: Split, classes: Tensor, generator: torch.Generator) -> TaskOfClasses:
        """A task of each row of `classes` `[T, ways]`: only of data that offer `episodes_of_classes`."""
        del split, classes, generator
        raise NotImplementedError(f"{type(self).__name__} draws no tasks of given classes")

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """`ways`, `shots`, `queries` and `split` (null where they mean nothing) for `result.json`."""

    def prepare(self) -> None:  # noqa: B027  (an optional step, not a forgotten one)
        """Load what drawing needs, with a progress bar where that is long. Called once before training."""

    @property
    def fixed_shapes(self) -> bool:
        """Whether all training batches of a stream have the same shapes."""
        return True

    def sample_replicas(self, split: Split, stream: str, tasks: int, generators: Sequence[torch.Generator]) -> Batch:
        """A batch from each generator, `[R, T, ...]`: what R calls of `draw` give, which a data set may do faster."""
        batches = [self.sample(split, stream, tasks, generator) for generator in generators]
        return pytree.tree_map(lambda *leaves: torch.stack(leaves), *batches)

    def eval_block(self, split: Split, stream: str, block: int) -> Batch:
        """Block number `block` of the part's held-out tasks: the same for every algorithm, run and seed.

        Blocks hold `BLOCK` tasks and have a seed each, so the first 100 tasks are the same tasks whether 100 or
        600 are asked for. Streams share the seed, so the oracle is judged on the tasks that MAML is judged on.
        """
        return self.sample(split, stream, BLOCK, stream_generator(self.device, "held-out", split, block))

    def curves(self, tasks: int, points: int, generator: torch.Generator) -> tuple[Task, list[str]] | None:
        """Tasks for a picture; None where x is no line to draw over.

        Returns:
            The tasks, all of them without noise and their query set an even grid over x, `[tasks, points, 1]`; and a
            title for each.
        """
        del tasks, points, generator
        return None

    @property
    def loss(self) -> TaskLoss:
        """The task loss, a mean over examples: cross-entropy, squared error, or binary cross-entropy over pairs."""
        return LOSSES[self.kind]

    @property
    def metric(self) -> str:
        """Name of the headline metric."""
        return HEADLINES[self.kind]

    @property
    def higher_is_better(self) -> bool:
        return self.kind != "regression"
