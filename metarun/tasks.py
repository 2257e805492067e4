"""Tasks, and the interface of data sets, which are distributions of tasks.

Learners see NamedTuples of tensors, which are pytrees: `torch.func.vmap` maps over them, and the training loop moves,
slices and shards them without knowing their contents. A *batch* is the same structure with a leading task dimension T
on every leaf.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from metarun.sampling import stream_generator

Split = Literal["train", "val", "test"]
Kind = Literal["classification", "regression", "verification"]
TaskLoss = Callable[[Any, Tensor], Tensor]
Needed = Mapping[Split, Collection[str]]  # streams by split

BLOCK = 20  # held-out tasks per block; each block has its own seed


class Examples(NamedTuple):
    """Examples: a support set, a query set, or a mini-batch of the stream `batches`.

    A batch of the stream `batches` is T mini-batches, `x [T, b, ...]` and `y [T, b]`.

    Attributes:
        x: inputs, `[n, ...]`.
        y: targets: class indices `[n]` (int64), or values `[n, d]`. In an episode classes are numbered within the
            task, in the stream `batches` within the split.
    """

    x: Tensor
    y: Tensor


class Task(NamedTuple):
    """An episode: a learner adapts to `support`, and is evaluated on `query`."""

    support: Examples
    query: Examples


class Pairs(NamedTuple):
    """A mini-batch of pairs of inputs.

    Attributes:
        x: pairs, `[b, 2, ...]`.
        y: `[b]` (int64), 1: both inputs are of one class, 0: of two.
    """

    x: Tensor
    y: Tensor


class Presentations(NamedTuple):
    """A sequence of examples that are presented one by one; each label follows one step late, with the next example.

    Attributes:
        x: inputs, `[n, ...]`.
        y: class indices, `[n]`.
        scored: `[n]` (bool), the examples that the headline metric counts: those with `shots` earlier examples of
            their class.
    """

    x: Tensor
    y: Tensor
    scored: Tensor


class TaskAndBatch(NamedTuple):
    """An episode and a mini-batch of the same split: the stream `episodes_and_batches`."""

    support: Examples
    query: Examples
    batch: Examples


class TaskOfClasses(NamedTuple):
    """An episode and the classes of its ways, `[ways]` (int64), numbered as in the stream `batches` of its split."""

    support: Examples
    query: Examples
    classes: Tensor


Batch = Task | TaskAndBatch | TaskOfClasses | Pairs | Presentations | Examples


class DataError(ValueError):
    """Data is missing or unusable; the message says what was looked for, where, and what to do."""


def pair_loss(scores: Tensor, y: Tensor) -> Tensor:
    """Mean binary cross-entropy of scores `[b]`, used as logits of `y [b]` = 1 (same class)."""
    return F.binary_cross_entropy_with_logits(scores, y.to(scores.dtype))


LOSSES: dict[Kind, TaskLoss] = {
    "classification": F.cross_entropy,
    "regression": F.mse_loss,
    "verification": pair_loss,
}
HEADLINES: dict[Kind, str] = {"classification": "accuracy", "regression": "mse", "verification": "auc"}


class TaskSet(ABC):
    """A distribution of tasks in three splits, `train`, `val` and `test`.

    Construction is cheap and opens no file: data is loaded by the first `sample` (or by `prepare`), so that a trained
    learner can be loaded on a machine without its data.

    Attributes:
        kind: what a task asks for; selects the loss and the headline metric.
        streams: the streams that some split of this data set can sample.
        evaluation_stream: the stream that learners are validated and tested on, unless they have their own.
        fusable_args: constructor arguments that change values but no shapes. Fused runs may differ in them.
        device: where training batches are sampled, and what is sampled from lies.
        eval_seed: the stream of the test's tasks, `run.eval_seed`.
    """

    kind: ClassVar[Kind]
    streams: ClassVar[tuple[str, ...]] = ("episodes",)
    evaluation_stream: ClassVar[str] = "episodes"
    fusable_args: ClassVar[tuple[str, ...]] = ()

    device: torch.device
    eval_seed: int = 0

    @abstractmethod
    def in_shape(self, stream: str = "episodes") -> tuple[int, ...]:
        """The shape of one input of a stream (of each input of a pair), without batch dimensions: `(1, 28, 28)`."""

    @abstractmethod
    def outputs(self, split: Split, stream: str = "episodes") -> int:
        """The width of a prediction: ways, the classes of `batches`, the dimension of `y`, or 1 (a pair's score)."""

    @abstractmethod
    def sample(self, split: Split, stream: str, tasks: int, generator: torch.Generator) -> Batch:
        """Sample a batch of tasks, or of mini-batches, on the device of the generator.

        Args:
            split: where the classes or functions come from.
            stream: one of `streams`.
            tasks: T.
            generator: the source of all random numbers; in training on `self.device`, of held-out tasks on the CPU.

        Raises:
            DataError: the data is missing, or the split has too few classes or examples.
            ValueError: the data set does not have this stream.
        """

    def sample_classes(self, split: Split, classes: Tensor, generator: torch.Generator) -> TaskOfClasses:
        """Sample a task of the classes in each row of `classes [T, ways]`. Required for `episodes_of_classes`."""
        del split, classes, generator
        raise NotImplementedError(f"{type(self).__name__} draws no tasks of given classes")

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """`ways`, `shots`, `queries` and `partition` for `result.json`; None where they do not apply."""

    def prepare(self, needed: Needed | None = None) -> None:  # noqa: B027  (an optional step, not a forgotten one)
        """Load what sampling needs, with a progress bar if that takes long. Called once before training.

        Args:
            needed: the streams that will be sampled of each split; splits that are not named need not be there. None:
                episodes of all splits.

        Raises:
            DataError: data is missing, or too little for these streams.
        """

    @property
    def fixed_shapes(self) -> bool:
        """Whether all training batches of a stream have the same shapes, so that they can be fused and compiled."""
        return True

    def sample_replicas(self, split: Split, stream: str, tasks: int, generators: Sequence[torch.Generator]) -> Batch:
        """Sample a batch from each generator, `[R, T, ...]`: the same as R calls of `sample`; override it if faster."""
        batches = [self.sample(split, stream, tasks, generator) for generator in generators]
        return pytree.tree_map(lambda *leaves: torch.stack(leaves), *batches)

    def eval_block(self, split: Split, stream: str, block: int) -> Batch:
        """Sample one block of a split's held-out tasks, the same for every algorithm, run and seed.

        A block has `BLOCK` tasks and its own seed, so that the first 100 of 600 tasks are the same as the first 100 of
        100. Streams share the seed, so that the oracle is tested on the tasks that MAML is tested on. They are sampled
        on the CPU, and stay there: a GPU's generator would draw others from the same seed. `eval_seed` draws other
        test tasks; validation's stay.
        """
        names: tuple[object, ...] = ("held-out", split, block)
        if self.eval_seed and split == "test":
            names = ("held-out", split, block, self.eval_seed)
        return self.sample(split, stream, BLOCK, stream_generator("cpu", *names))

    def groups(self, tasks: int) -> tuple[str, ...]:
        """The group that each of the first `tasks` held-out tasks belongs to, such as the data set it is drawn from.

        Results are then reported for each group too. Empty: there are no groups.
        """
        del tasks
        return ()

    def curves(self, tasks: int, points: int, generator: torch.Generator) -> tuple[Task, list[str]] | None:
        """Sample tasks for a figure of adapted curves; None: inputs are not points on a line.

        Returns:
            Tasks without noise whose query inputs are an even grid, `[tasks, points, 1]`, and a title for each.
        """
        del tasks, points, generator
        return None

    @property
    def loss(self) -> TaskLoss:
        """The task loss, a mean over examples: cross-entropy, squared error, or binary cross-entropy of pairs."""
        return LOSSES[self.kind]

    @property
    def metric(self) -> str:
        """The name of the headline metric."""
        return HEADLINES[self.kind]

    @property
    def higher_is_better(self) -> bool:
        """Whether larger values of the headline metric are better."""
        return self.kind != "regression"
