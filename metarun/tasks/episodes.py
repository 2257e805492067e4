"""The episode sampler: a whole meta-batch drawn by index, with no loop over tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from metarun.tasks.images import Images
from metarun.tasks.task import (
    Batch,
    DataError,
    Examples,
    Kind,
    Pairs,
    Part,
    Presentations,
    Task,
    TaskAndFlat,
    TaskOfClasses,
    TaskSet,
)

if TYPE_CHECKING:
    from metarun.tasks.augment import Change

PARTS: tuple[Part, ...] = ("train", "val", "test")


def draw_distinct(rows: int, population: int, k: int, generator: torch.Generator) -> Tensor:
    """`[rows, k]` int64: k distinct numbers below `population` a row, all ordered choices equally likely."""
    device = generator.device
    if 2 * k * k > population:
        return torch.rand(rows, population, generator=generator, device=device).topk(k, dim=1).indices
    # Repetitions are rare: draw freely, and draw again the whole rows that hold one (to redraw only the
    # repeated number would favour some choices). This takes rows * k random numbers, not rows * population.
    drawn = torch.randint(population, (rows, k), generator=generator, device=device)
    while (again := _repeats(drawn)) is not None:
        drawn[again] = torch.randint(population, (len(again), k), generator=generator, device=device)
    return drawn


def _repeats(drawn: Tensor) -> Tensor | None:
    """Indices of the rows that hold a number twice; None if no row does."""
    ordered = drawn.sort(dim=1).values
    equal = ordered[:, 1:] == ordered[:, :-1]
    return equal.any(1).nonzero().flatten() if equal.any() else None


def draw_below(counts: Tensor, largest: int, k: int, generator: torch.Generator) -> Tensor:
    """`counts [rows]` -> `[rows, k]`: k distinct numbers below each row's count, itself at most `largest`."""
    keys = torch.rand(len(counts), largest, generator=generator, device=generator.device)
    beyond = torch.arange(largest, device=generator.device) >= counts[:, None]
    return keys.masked_fill_(beyond, -1.0).topk(k, dim=1).indices


class Sampler:
    """Draws episodes, flat mini-batches and pairs from one part's images.

    Arguments
        images: the part's images; they are moved to `device`.
        mean, std: per channel, of pixels in [0, 1]; None leaves pixels in [0, 1].
        change: what is done to images at random before they are normalised (tasks/augment.py); None: nothing.
    """

    def __init__(
        self,
        images: Images,
        device: torch.device,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        change: Change | None = None,
    ):
        self.change = change
        self.pixels = images.pixels.to(device)
        self.counts = images.counts.to(device)
        self.starts = images.starts.to(device)
        self.classes = len(images.names)
        self.fewest, self.most = int(images.counts.min()), int(images.counts.max())
        self.scale = torch.tensor(1 / 255, device=device)
        self.shift: Tensor | None = None
        if mean is not None and std is not None:
            spread = torch.tensor(list(std), device=device).view(-1, 1, 1)
            self.scale = 1 / (255 * spread)
            self.shift = -torch.tensor(list(mean), device=device).view(-1, 1, 1) / spread

    def episodes(
        self, tasks: int, ways: int, shots: int, queries: int, generator: torch.Generator, merged: int = 1
    ) -> Task:
        """`support` of `[T, ways*merged*shots, ...]`, `query` of `[T, ways*merged*queries, ...]`, class after class.

        Classes are distinct within a task, images distinct within a class, so support and query are disjoint. Of
        `merged` classes each, one after the other, the labels are the same.
        """
        classes = draw_distinct(tasks, self.classes, ways * merged, generator)
        return self.episodes_of(classes, shots, queries, generator, merged)

    def episodes_of(
        self, classes: Tensor, shots: int, queries: int, generator: torch.Generator, merged: int = 1
    ) -> Task:
        """`episodes` of given classes, `[T, ways*merged]`, distinct within a task."""
        tasks, drawn = classes.shape
        k = shots + queries
        index = self.of_classes(classes.flatten(), k, generator).view(tasks, drawn, k)
        label = torch.arange(drawn, device=generator.device) // merged
        sets = []
        for part, n in ((index[..., :shots], shots), (index[..., shots:], queries)):
            y = label.repeat_interleave(n).repeat(tasks, 1)
            sets.append(Examples(self.images(part.reshape(tasks, drawn * n), generator), y))
        return Task(*sets)

    def flat(self, tasks: int, batch: int, generator: torch.Generator) -> Examples:
        """`x [T, batch, ...]`, `y [T, batch]`: images of the part, all equally likely, with their classes."""
        index = torch.randint(len(self.pixels), (tasks, batch), generator=generator, device=generator.device)
        y = torch.searchsorted(self.starts, index, right=True) - 1
        return Examples(self.images(index, generator), y)

    def pairs(self, tasks: int, batch: int, generator: torch.Generator) -> Pairs:
        """`x [T, batch, 2, ...]`, `y [T, batch]`: half of the pairs, the first, are of one class, half of two.

        All classes, or all ordered choices of two, are equally likely, and all images of a class; a pair of one class
        holds two distinct images. `batch` is even.
        """
        n = tasks * batch // 2
        one = torch.randint(self.classes, (n,), generator=generator, device=generator.device)
        same = self.of_classes(one, 2, generator)
        different = self.of_classes(draw_distinct(n, self.classes, 2, generator).flatten(), 1, generator)
        index = torch.cat([pairs.view(tasks, batch // 2, 2) for pairs in (same, different)], 1)
        y = torch.tensor([1, 0], device=generator.device).repeat_interleave(batch // 2).repeat(tasks, 1)
        return Pairs(self.images(index, generator), y)

    def sequences(self, tasks: int, ways: int, shown: int, shots: int, generator: torch.Generator) -> Presentations:
        """`x [T, ways*shown, ...]`: `shown` distinct images of each of `ways` classes, all in a random order."""
        classes = draw_distinct(tasks, self.classes, ways, generator).flatten()
        index = self.of_classes(classes, shown, generator).view(tasks, ways * shown)
        order = torch.rand(tasks, ways * shown, generator=generator, device=generator.device).argsort(1)
        y = order // shown
        member = y.unsqueeze(-1) == torch.arange(ways, device=y.device)
        before = (member.cumsum(1) * member).sum(-1) - 1  # of the same class
        return Presentations(self.images(index.gather(1, order), generator), y, before == shots)

    def of_classes(self, classes: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """`classes [n]` -> `[n, k]`: numbers of k distinct images of each."""
        if self.fewest == self.most:
            within = draw_distinct(len(classes), self.most, k, generator)
        else:
            within = draw_below(self.counts[classes], self.most, k, generator)
        return self.starts[classes][:, None] + within

    def images(self, index: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images by number, float32, changed (by a generator) and scaled: `index [...]` -> `[..., C, H, W]`."""
        raw = self.pixels.index_select(0, index.flatten())
        x = raw.to(torch.float32)  # three times as fast as a product of mixed types
        if self.change is not None and generator is not None:
            x = self.change(x / 255, generator) * 255
        if self.shift is None:
            x.mul_(self.scale)
        else:
            torch.addcmul(self.shift, x, self.scale, out=x)
        return x.view(*index.shape, *raw.shape[1:])


class ImageTasks(TaskSet):
    """Few-shot classification of images in named parts.

    Arguments
        split: name of the division into train, val and test; recorded in the result.
        ways, shots, queries: classes of a task, support and query images per class; in `val` and `test`.
        train_ways, train_shots, train_queries: the same in `train`. `train_shots` may be a range (lowest, highest), of
            which each meta-batch has one number, all equally likely; None: as in `val` and `test`.
        merged: classes that are put together to one way of a task, in all parts; shots and queries are of each.
        flat_batch: images per mini-batch of the streams `flat` and `episodes_and_flat`.
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
    offers: ClassVar[tuple[str, ...]] = (
        *("episodes", "flat", "episodes_and_flat", "episodes_of_classes"),
        *("pairs", "sequences"),
    )
    splits: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        *,
        split: str,
        ways: int,
        shots: int,
        queries: int,
        train_ways: int,
        train_queries: int,
        flat_batch: int,
        channels: int,
        device: torch.device | str,
        pair_batch: int = 64,
        instances: int = 10,
        merged: int = 1,
        train_shots: int | Sequence[int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: Sequence[str] = (),
    ):
        numbers = {"ways": ways, "shots": shots, "queries": queries, "train_ways": train_ways}
        numbers |= {"train_queries": train_queries, "flat_batch": flat_batch}
        for name, value in numbers.items():
            check_whole(name, value, 2 if name.endswith("ways") else 1)
        check_even("pair_batch", pair_batch)
        check_whole("merged", merged, 1)
        check_whole("instances", instances, 2)
        if split not in self.splits:
            raise ValueError(f"data.split: wanted one of {', '.join(self.splits)}, got {split!r}")
        _check_normalisation(channels, mean, std)
        self.split, self.ways, self.shots, self.queries = split, ways, shots, queries
        self.train_ways, self.train_queries, self.flat_batch = train_ways, train_queries, flat_batch
        self.pair_batch, self.merged, self.instances = pair_batch, merged, instances
        self.train_shots = shots_range(shots if train_shots is None else train_shots)
        self.mean, self.std = mean, std
        self.change: Change | None = None
        if augment:
            from metarun.tasks.augment import augmentation  # torchvision takes a second to import

            self.change = augmentation(augment, channels)
        self.device = torch.device(device)
        self._samplers: dict[Part, Sampler] = {}
        self._names: dict[Part, tuple[str, ...]] = {}

    @abstractmethod
    def load(self, part: Part) -> Images:
        """The images of one part, from the cache where that holds them.

        Raises
            DataError: they are missing or unusable.
        """

    def classes(self, part: Part) -> tuple[str, ...]:
        """Names of the part's classes, in the order of the `flat` stream's labels. Loads the part."""
        self._sampler(part)
        return self._names[part]

    @property
    def steady(self) -> bool:
        return len(set(self.train_shots)) == 1

    def prepare(self) -> None:
        for part in PARTS:
            self._sampler(part)

    def outputs(self, part: Part, stream: str = "episodes") -> int:
        if stream == "flat":
            return len(self.classes(part))
        if stream == "pairs":
            return 1
        return self.train_ways if part == "train" else self.ways

    def draw(self, part: Part, stream: str, tasks: int, generator: torch.Generator) -> Batch:
        if stream not in self.offers:
            raise ValueError(f"stream: wanted one of {', '.join(self.offers)}, got {stream!r}")
        sampler = self._sampler(part)
        if stream == "flat":
            return sampler.flat(tasks, self.flat_batch, generator)
        if stream == "pairs":
            return sampler.pairs(tasks, self._pairs(part), generator)
        ways, _, queries = self._sizes(part)
        if stream == "sequences":
            return self._sequences(part, tasks, ways, generator)
        if stream == "episodes_of_classes":
            return self.draw_of(part, draw_distinct(tasks, sampler.classes, ways, generator), generator)
        shots = self._shots(part, generator)
        episodes = sampler.episodes(tasks, ways, shots, queries, generator, self.merged)
        if stream == "episodes":
            return episodes
        return TaskAndFlat(*episodes, sampler.flat(tasks, self.flat_batch, generator))

    def draw_of(self, part: Part, classes: Tensor, generator: torch.Generator) -> TaskOfClasses:
        """A task of each row of `classes` `[T, ways]`, distinct classes in the order of the flat stream's labels.

        Raises
            DataError: ways are made of several classes.
        """
        if self.merged > 1:
            raise DataError(f"data.merged: wanted 1 where tasks are drawn of given classes, got {self.merged}")
        shots, queries = self._shots(part, generator), self._sizes(part)[2]
        return TaskOfClasses(*self._sampler(part).episodes_of(classes, shots, queries, generator), classes)

    def _shots(self, part: Part, generator: torch.Generator) -> int:
        """Shots of a batch, drawn where they are a range."""
        low, high = self._sizes(part)[1]
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
            "split": self.split,
            **({"merged": self.merged} if self.merged > 1 else {}),
        }

    def _sizes(self, part: Part) -> tuple[int, tuple[int, int], int]:
        """Ways, fewest and most shots, and queries of a part's tasks."""
        if part == "train":
            return self.train_ways, self.train_shots, self.train_queries
        return self.ways, (self.shots, self.shots), self.queries

    def _sequences(self, part: Part, tasks: int, ways: int, generator: torch.Generator) -> Presentations:
        if self.shots >= self.instances:
            raise DataError(
                f"data.instances: a class that is judged after {self.shots} shots must be shown more often than "
                f"that, got {self.instances}"
            )
        sampler = self._sampler(part)
        if sampler.fewest < self.instances:
            raise DataError(
                f"data.instances: wanted at most the {sampler.fewest} images that the smallest class of part {part!r} "
                f"holds, got {self.instances}"
            )
        return sampler.sequences(tasks, ways, self.instances, self.shots, generator)

    def _pairs(self, part: Part) -> int:
        """Pairs of a mini-batch of a part."""
        del part  # the same in all; a data set of pairs has its own number in val and test
        return self.pair_batch

    def _sampler(self, part: Part) -> Sampler:
        if part not in self._samplers:
            if part not in PARTS:
                raise ValueError(f"part: wanted one of {', '.join(PARTS)}, got {part!r}")
            images = self.load(part)
            self._check(part, images)
            self._names[part] = images.names
            self._samplers[part] = Sampler(
                images, self.device, self.mean, self.std, self.change if part == "train" else None
            )
        return self._samplers[part]

    def _check(self, part: Part, images: Images) -> None:
        ways, (_, shots), queries = self._sizes(part)
        prefix = "train_" if part == "train" else ""
        if ways * self.merged > len(images.names):
            of_each = f" of {self.merged} merged classes" if self.merged > 1 else ""
            raise DataError(
                f"data.{prefix}ways: wanted at most the {len(images.names)} classes of part {part!r} "
                f"(split {self.split!r}), got {ways}{of_each}"
            )
        wanted = shots + queries
        counts = dict(zip(images.names, images.counts.tolist(), strict=True))
        short = [f"{name} ({count})" for name, count in counts.items() if count < wanted]
        if short:
            more = f" and {len(short) - 5} more" if len(short) > 5 else ""
            raise DataError(
                f"data.{prefix}shots + data.{prefix}queries: a task takes {shots} + {queries} = {wanted} images "
                f"of a class, and classes of part {part!r} hold fewer: {', '.join(short[:5])}{more}"
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
