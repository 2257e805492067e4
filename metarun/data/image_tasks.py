"""The episode sampler: a whole meta-batch drawn by index, with no loop over tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from metarun.images.sampler import Sampler
from metarun.images.store import Images
from metarun.sampling import draw_distinct
from metarun.tasks import (
    Batch,
    DataError,
    Kind,
    Presentations,
    Split,
    TaskAndBatch,
    TaskOfClasses,
    TaskSet,
)

if TYPE_CHECKING:
    from metarun.images.augment import Augment

SPLITS: tuple[Split, ...] = ("train", "val", "test")


class ImageTasks(TaskSet):
    """Few-shot classification of images in named parts.

    Arguments
        split: name of the division into train, val and test; recorded in the result.
        ways, shots, queries: classes of a task, support and query images per class; in `val` and `test`.
        train_ways, train_shots, train_queries: the same in `train`. `train_shots` may be a range (lowest, highest), of
            which each meta-batch has one number, all equally likely; None: as in `val` and `test`.
        merged: classes that are put together to one way of a task, in all parts; shots and queries are of each.
        flat_batch: images per mini-batch of the streams `batches` and `episodes_and_batches`.
        pair_batch: pairs per mini-batch of the stream `pairs`, even.
        instances: images of each class in a task of the stream `sequences`, more than `shots`.
        channels: 1 (grey) or 3 (RGB).
        mean, std: per channel, of pixels in [0, 1], to normalise with; None for neither.
        augment: names of random changes of training images, one after the other: `crop`, `flip`, `jitter`.
        device: where the images are kept and the tasks drawn.

    Raises
        ValueError: an argument is out of range, or `split` is not one of `splits`.
    """

    kind: ClassVar[Kind] = "classification"
    streams: ClassVar[tuple[str, ...]] = (
        *("episodes", "batches", "episodes_and_batches", "episodes_of_classes"),
        *("pairs", "sequences"),
    )
    partitions: ClassVar[tuple[str, ...]]

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
        channels: int,
        device: torch.device | str,
        pair_batch_size: int = 64,
        instances: int = 10,
        classes_per_way: int = 1,
        train_shots: int | Sequence[int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: Sequence[str] = (),
    ):
        numbers = {"ways": ways, "shots": shots, "queries": queries, "train_ways": train_ways}
        numbers |= {"train_queries": train_queries, "flat_batch": batch_size}
        for name, value in numbers.items():
            check_whole(name, value, 2 if name.endswith("ways") else 1)
        check_even("pair_batch", pair_batch_size)
        check_whole("merged", classes_per_way, 1)
        check_whole("instances", instances, 2)
        if partition not in self.partitions:
            raise ValueError(f"data.partition: wanted one of {', '.join(self.partitions)}, got {partition!r}")
        _check_normalisation(channels, mean, std)
        self.partition, self.ways, self.shots, self.queries = partition, ways, shots, queries
        self.train_ways, self.train_queries, self.batch_size = train_ways, train_queries, batch_size
        self.pair_batch_size, self.classes_per_way, self.instances = pair_batch_size, classes_per_way, instances
        self.train_shots = shots_range(shots if train_shots is None else train_shots)
        self.mean, self.std = mean, std
        self.change: Augment | None = None
        if augment:
            from metarun.images.augment import augmentation  # torchvision takes a second to import

            self.change = augmentation(augment, channels)
        self.device = torch.device(device)
        self._samplers: dict[Split, Sampler] = {}
        self._names: dict[Split, tuple[str, ...]] = {}

    @abstractmethod
    def load(self, split: Split) -> Images:
        """The images of one part, from the cache where that holds them.

        Raises
            DataError: they are missing or unusable.
        """

    def classes(self, split: Split) -> tuple[str, ...]:
        """Names of the part's classes, in the order of the `batches` stream's labels. Loads the part."""
        self._sampler(split)
        return self._names[split]

    @property
    def fixed_shapes(self) -> bool:
        return len(set(self.train_shots)) == 1

    def prepare(self) -> None:
        for split in SPLITS:
            self._sampler(split)

    def outputs(self, split: Split, stream: str = "episodes") -> int:
        if stream == "batches":
            return len(self.classes(split))
        if stream == "pairs":
            return 1
        return self.train_ways if split == "train" else self.ways

    def sample(self, split: Split, stream: str, tasks: int, generator: torch.Generator) -> Batch:
        if stream not in self.streams:
            raise ValueError(f"stream: wanted one of {', '.join(self.streams)}, got {stream!r}")
        sampler = self._sampler(split)
        if stream == "batches":
            return sampler.batches(tasks, self.batch_size, generator)
        if stream == "pairs":
            return sampler.pairs(tasks, self._pairs(split), generator)
        ways, _, queries = self._sizes(split)
        if stream == "sequences":
            return self._sequences(split, tasks, ways, generator)
        if stream == "episodes_of_classes":
            return self.sample_classes(split, draw_distinct(tasks, sampler.classes, ways, generator), generator)
        shots = self._shots(split, generator)
        episodes = sampler.episodes(tasks, ways, shots, queries, generator, self.classes_per_way)
        if stream == "episodes":
            return episodes
        return TaskAndBatch(*episodes, sampler.batches(tasks, self.batch_size, generator))

    def sample_classes(self, split: Split, classes: Tensor, generator: torch.Generator) -> TaskOfClasses:
        """A task of each row of `classes` `[T, ways]`, distinct classes in the order of the flat stream's labels.

        Raises
            DataError: ways are made of several classes.
        """
        if self.classes_per_way > 1:
            raise DataError(
                f"data.classes_per_way: wanted 1 where tasks are drawn of given classes, got {self.classes_per_way}"
            )
        shots, queries = self._shots(split, generator), self._sizes(split)[2]
        return TaskOfClasses(*self._sampler(split).episodes_of(classes, shots, queries, generator), classes)

    def _shots(self, split: Split, generator: torch.Generator) -> int:
        """Shots of a batch, drawn where they are a range."""
        low, high = self._sizes(split)[1]
        if low == high:
            return low
        return low + int(torch.randint(high - low + 1, (), generator=generator, device=self.device))

    def describe(self) -> dict[str, Any]:
        return {
            "ways": self.ways,
            "shots": self.shots,
            "queries": self.queries,
            "train_ways": self.train_ways,
            "train_shots": self.train_shots[0] if len(set(self.train_shots)) == 1 else list(self.train_shots),
            "train_queries": self.train_queries,
            "partition": self.partition,
            **({"merged": self.classes_per_way} if self.classes_per_way > 1 else {}),
        }

    def _sizes(self, split: Split) -> tuple[int, tuple[int, int], int]:
        """Ways, fewest and most shots, and queries of a part's tasks."""
        if split == "train":
            return self.train_ways, self.train_shots, self.train_queries
        return self.ways, (self.shots, self.shots), self.queries

    def _sequences(self, split: Split, tasks: int, ways: int, generator: torch.Generator) -> Presentations:
        if self.shots >= self.instances:
            raise DataError(
                f"data.instances: a class that is judged after {self.shots} shots must be shown more often than "
                f"that, got {self.instances}"
            )
        sampler = self._sampler(split)
        if sampler.fewest < self.instances:
            raise DataError(
                f"data.instances: wanted at most the {sampler.fewest} images that the smallest class of part {split!r} "
                f"holds, got {self.instances}"
            )
        return sampler.sequences(tasks, ways, self.instances, self.shots, generator)

    def _pairs(self, split: Split) -> int:
        """Pairs of a mini-batch of a part."""
        del split  # the same in all; a data set of pairs has its own number in val and test
        return self.pair_batch_size

    def _sampler(self, split: Split) -> Sampler:
        if split not in self._samplers:
            if split not in SPLITS:
                raise ValueError(f"part: wanted one of {', '.join(SPLITS)}, got {split!r}")
            images = self.load(split)
            self._check(split, images)
            self._names[split] = images.names
            self._samplers[split] = Sampler(
                images, self.device, self.mean, self.std, self.change if split == "train" else None
            )
        return self._samplers[split]

    def _check(self, split: Split, images: Images) -> None:
        ways, (_, shots), queries = self._sizes(split)
        prefix = "train_" if split == "train" else ""
        if ways * self.classes_per_way > len(images.names):
            of_each = f" of {self.classes_per_way} merged classes" if self.classes_per_way > 1 else ""
            raise DataError(
                f"data.{prefix}ways: wanted at most the {len(images.names)} classes of part {split!r} "
                f"(split {self.partition!r}), got {ways}{of_each}"
            )
        wanted = shots + queries
        counts = dict(zip(images.names, images.counts.tolist(), strict=True))
        short = [f"{name} ({count})" for name, count in counts.items() if count < wanted]
        if short:
            more = f" and {len(short) - 5} more" if len(short) > 5 else ""
            raise DataError(
                f"data.{prefix}shots + data.{prefix}queries: a task takes {shots} + {queries} = {wanted} images "
                f"of a class, and classes of part {split!r} hold fewer: {', '.join(short[:5])}{more}"
            )


def check_whole(name: str, value: object, least: int) -> None:
    """Raises ValueError, naming the argument, unless `value` is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"data.{name}: wanted a whole number of at least {least}, got {value!r}")


def check_even(name: str, value: object) -> None:
    """Raises ValueError, naming the argument, unless `value` is an even whole number of at least 2."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 2 or value % 2:
        raise ValueError(f"data.{name}: wanted an even whole number of at least 2, got {value!r}")


def shots_range(shots: int | Sequence[int]) -> tuple[int, int]:
    """Fewest and most training shots.

    Raises:
        ValueError: neither a whole number of at least 1 nor two of them, the lowest first.
    """
    low, *more = shots if isinstance(shots, Sequence) else (shots,)
    high = more[0] if more else low
    try:
        check_whole("train_shots", low, 1)
        check_whole("train_shots", high, low)
    except ValueError:
        raise ValueError(
            f"data.train_shots: wanted a whole number of at least 1, or a range [lowest, highest]; got {shots!r}"
        ) from None
    return low, high


def _check_normalisation(channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    if channels not in (1, 3):
        raise ValueError(f"data.channels: wanted 1 (grey) or 3 (RGB), got {channels!r}")
    if mean is None and std is None:
        return
    if mean is None or std is None or not len(mean) == len(std) == channels or min(std) <= 0:
        raise ValueError(
            f"data.mean and data.std: wanted {channels} numbers each, std positive, or null for both, "
            f"got {mean!r} and {std!r}"
        )
