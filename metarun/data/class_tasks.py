"""Tasks out of examples that belong to classes, whatever an example is: all that counts and draws."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun.checks import is_int, require, require_choice, require_int
from metarun.images.sampler import Sampler, Store
from metarun.tasks import Batch, DataError, Kind, Needed, Split, TaskAndBatch, TaskOfClasses, TaskSet

SPLITS: tuple[Split, ...] = ("train", "val", "test")


class ClassTasks(TaskSet):
    """Few-shot classification of examples in three splits; a subclass says what the examples are (`store`).

    Attributes:
        partitions: the ways in which the data can be divided into splits, by name.
        noun: what examples are called in error messages.

    Args:
        partition: name of the division into train, val and test; recorded in the result.
        ways, shots, queries: classes of a task, support and query examples per class; in `val` and `test`.
        train_ways, train_shots, train_queries: the same in `train`. `train_shots` may be a range (lowest, highest), of
            which each meta-batch has one number, all equally likely; None: as in `val` and `test`.
        classes_per_way: classes that are put together to one way of a task, in all splits; shots and queries are of
            each of them.
        batch_size: examples per mini-batch of the streams `batches` and `episodes_and_batches`.
        pair_batch_size: pairs per mini-batch of the stream `pairs`, even.
        instances: examples of each class in a task of the stream `sequences`, more than `shots`.
        device: where tasks are drawn.

    Raises:
        ValueError: an argument is out of range, or `partition` is not one of `partitions`.
    """

    kind: ClassVar[Kind] = "classification"
    streams: ClassVar[tuple[str, ...]] = (
        *("episodes", "batches", "episodes_and_batches", "episodes_of_classes"),
        *("pairs", "sequences"),
    )
    partitions: ClassVar[tuple[str, ...]]
    noun: ClassVar[str] = "examples"

    def __init__(
        self,
        *,
        partition: str,
        ways: int,
        shots: int,
        queries: int,
        train_ways: int,
        train_queries: int,
        batch_size: int,
        device: torch.device | str,
        pair_batch_size: int = 64,
        instances: int = 10,
        classes_per_way: int = 1,
        train_shots: int | Sequence[int] | None = None,
    ):
        require_int("data", minimum=2, ways=ways, train_ways=train_ways, instances=instances)
        require_int("data", minimum=1, shots=shots, queries=queries, train_queries=train_queries)
        require_int("data", minimum=1, batch_size=batch_size, classes_per_way=classes_per_way)
        require_even("data.pair_batch_size", pair_batch_size)
        require_choice("data.partition", partition, self.partitions)
        self.partition, self.ways, self.shots, self.queries = partition, ways, shots, queries
        self.train_ways, self.train_queries, self.batch_size = train_ways, train_queries, batch_size
        self.pair_batch_size, self.classes_per_way, self.instances = pair_batch_size, classes_per_way, instances
        self.train_shots = _shots_range(shots if train_shots is None else train_shots)
        self.device = torch.device(device)
        self._samplers: dict[Split, Sampler] = {}
        self._checked: set[tuple[Split, str]] = set()

    @abstractmethod
    def store(self, split: Split) -> Store:
        """The examples of one split, on `self.device`. Asked for once, when the split is first drawn from.

        Raises:
            DataError: they are missing or unusable.
        """

    def sampler_of(self, split: Split) -> Sampler:
        """What draws from a split. Asked for once."""
        return Sampler(self.store(split))

    def classes(self, split: Split) -> tuple[str, ...]:
        """Names of the split's classes, in the order of the labels of the stream `batches`. Loads the split."""
        return self._sampler(split).store.names

    @property
    def fixed_shapes(self) -> bool:
        return len(set(self.train_shots)) == 1

    def prepare(self, needed: Needed | None = None) -> None:
        if needed is None:
            needed = dict.fromkeys(SPLITS, (self.evaluation_stream,))
        for split in SPLITS:
            for stream in sorted(needed.get(split, ())):
                self._sampler(split, stream)

    def outputs(self, split: Split, stream: str = "episodes") -> int:
        if stream == "batches":
            return len(self.classes(split))
        if stream == "pairs":
            return 1
        return self.train_ways if split == "train" else self.ways

    def sample(self, split: Split, stream: str, tasks: int, generator: torch.Generator) -> Batch:
        require_choice("stream", stream, self.streams)
        sampler = self._sampler(split, stream)
        if stream == "batches":
            return sampler.batches(tasks, self.batch_size, generator)
        if stream == "pairs":
            return sampler.pairs(tasks, self._pairs(split), generator)
        ways, _, queries = self._sizes(split)
        if stream == "sequences":
            return sampler.sequences(tasks, ways, self.instances, self.shots, generator)
        if stream == "episodes_of_classes":
            return self.sample_classes(split, sampler.choose(tasks, ways, generator), generator)
        shots = self._shots(split, generator)
        episodes = sampler.episodes(tasks, ways, shots, queries, generator, self.classes_per_way)
        if stream == "episodes":
            return episodes
        return TaskAndBatch(*episodes, sampler.batches(tasks, self.batch_size, generator))

    def sample_classes(self, split: Split, classes: Tensor, generator: torch.Generator) -> TaskOfClasses:
        """A task of each row of `classes` `[T, ways]`, distinct classes numbered as in the stream `batches`.

        Raises:
            DataError: ways are made of several classes.
        """
        if self.classes_per_way > 1:
            raise DataError(
                f"data.classes_per_way must be 1 where tasks are drawn of given classes; got {self.classes_per_way}"
            )
        shots, queries = self._shots(split, generator), self._sizes(split)[2]
        return TaskOfClasses(
            *self._sampler(split, "episodes_of_classes").episodes_of(classes, shots, queries, generator), classes
        )

    def describe(self) -> dict[str, Any]:
        return {
            "ways": self.ways,
            "shots": self.shots,
            "queries": self.queries,
            "train_ways": self.train_ways,
            "train_shots": self.train_shots[0] if self.fixed_shapes else list(self.train_shots),
            "train_queries": self.train_queries,
            "partition": self.partition,
            **({"classes_per_way": self.classes_per_way} if self.classes_per_way > 1 else {}),
        }

    def _shots(self, split: Split, generator: torch.Generator) -> int:
        """Shots of a batch, drawn where they are a range."""
        low, high = self._sizes(split)[1]
        if low == high:
            return low
        return low + int(torch.randint(high - low + 1, (), generator=generator, device=generator.device))

    def _sizes(self, split: Split) -> tuple[int, tuple[int, int], int]:
        """Ways, fewest and most shots, and queries of a split's tasks."""
        if split == "train":
            return self.train_ways, self.train_shots, self.train_queries
        return self.ways, (self.shots, self.shots), self.queries

    def _pairs(self, split: Split) -> int:
        """Pairs of a mini-batch of a split."""
        del split  # the same in all; a data set of pairs has its own number in val and test
        return self.pair_batch_size

    def _sampler(self, split: Split, stream: str | None = None) -> Sampler:
        """The sampler of a split, checked for a stream; None: for no more than that the split is there."""
        if split not in self._samplers:
            require_choice("split", split, SPLITS)
            self._samplers[split] = self.sampler_of(split)
        sampler = self._samplers[split]
        if stream is not None and (split, stream) not in self._checked:
            self._check_sizes(split, stream, sampler)
            self._checked.add((split, stream))
        return sampler

    def _check_sizes(self, split: Split, stream: str, sampler: Sampler) -> None:
        """Raise unless the split holds enough classes, and enough examples of each, for a stream.

        Raises:
            DataError: it does not.
        """
        if stream == "batches":
            return
        if stream == "pairs":
            self._check_pairs(split, sampler)
            return
        self._check_ways(split, sampler)
        if stream == "sequences":
            self._check_instances(split, sampler)
        else:
            self._check_shots(split, sampler)

    def _check_pairs(self, split: Split, sampler: Sampler) -> None:
        if sampler.classes < 2 or sampler.fewest < 2:
            raise DataError(
                f"split {split!r} (partition {self.partition!r}) must hold at least 2 classes and 2 {self.noun} of "
                f"each to draw pairs from; got {sampler.classes} classes of {sampler.fewest} to {sampler.most} "
                f"{self.noun}{self._remedy(2)}"
            )

    def _check_ways(self, split: Split, sampler: Sampler) -> None:
        ways, prefix = self._sizes(split)[0], "data.train_" if split == "train" else "data."
        if ways * self.classes_per_way > sampler.classes:
            of_each = f" of {self.classes_per_way} classes each" if self.classes_per_way > 1 else ""
            raise DataError(
                f"{prefix}ways must be at most {sampler.classes // self.classes_per_way}, as split {split!r} "
                f"(partition {self.partition!r}) has {sampler.classes} classes; got {ways}{of_each}"
            )

    def _check_shots(self, split: Split, sampler: Sampler) -> None:
        (_, shots), queries = self._sizes(split)[1:]
        prefix = "data.train_" if split == "train" else "data."
        counts = zip(sampler.store.names, sampler.counts.tolist(), strict=True)
        short = [f"{name} ({count})" for name, count in counts if count < shots + queries]
        if short:
            more = f" and {len(short) - 5} more" if len(short) > 5 else ""
            raise DataError(
                f"{prefix}shots + {prefix}queries must be at most the {self.noun} of each class; got {shots} + "
                f"{queries} = {shots + queries}, and classes of split {split!r} hold fewer: "
                f"{', '.join(short[:5])}{more}{self._remedy(shots + queries)}"
            )

    def _check_instances(self, split: Split, sampler: Sampler) -> None:
        if self.instances <= self.shots:
            raise DataError(
                f"data.instances must be above data.shots={self.shots}, as a class is scored after that many; "
                f"got {self.instances}"
            )
        if self.instances > sampler.fewest:
            raise DataError(
                f"data.instances must be at most {sampler.fewest}, the {self.noun} of the smallest class of split "
                f"{split!r}; got {self.instances}{self._remedy(self.instances)}"
            )

    def _remedy(self, examples: int) -> str:
        """The end of an error about classes of fewer examples: how to do without them, where the data set offers it."""
        del examples
        return ""


def require_even(key: str, value: object) -> None:
    """An even integer of at least 2.

    Raises:
        ValueError: it is not.
    """
    even = isinstance(value, int) and is_int(value, 2) and value % 2 == 0
    require(key, value, even, "an even integer of at least 2")


def _shots_range(shots: int | Sequence[int]) -> tuple[int, int]:
    """Fewest and most training shots.

    Raises:
        ValueError: neither an integer of at least 1 nor two of them, the lowest first.
    """
    low, high = shots if isinstance(shots, Sequence) and len(shots) == 2 else (shots, shots)
    if not (isinstance(low, int) and isinstance(high, int) and is_int(low, 1) and is_int(high, low)):
        raise ValueError(
            f"data.train_shots must be an integer of at least 1, or a range [lowest, highest] of them; got {shots!r}"
        )
    return low, high
