"""Draws tasks from a store by index: a whole meta-batch at once, with no loop over tasks.

The sampler counts and chooses; what an example is, only the store knows. So the same draws serve images, and whatever
else is kept class after class and looked up by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from metarun.sampling import draw_below, draw_distinct
from metarun.tasks import Examples, Pairs, Presentations, Task


class Store(Protocol):
    """The examples of one split, numbered from 0, class after class.

    Class c holds `counts[c]` examples; the number of its first one is `counts[:c].sum()`.

    Attributes:
        names: names of the classes, in the order of their indices.
        counts: `[classes]` (int64), how many examples each class holds.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def counts(self) -> Tensor: ...

    def take(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Look examples up by number.

        Args:
            index: `[...]` (int64), of any number of dimensions.
            generator: source of all randomness in an example itself, such as augmentation; on the device of `index`.

        Returns:
            x `[..., *shape]` (float32), on that device, where `shape` is the same for all examples.
        """


class Sampler:
    """Draws episodes, mini-batches, pairs and sequences from the examples of one split.

    Everything random comes from the generator of a call: first the choice of classes and examples, then what the
    store draws when it is asked for them. A batch is on the generator's device, wherever the store keeps its examples.

    Args:
        store: the examples.
    """

    def __init__(self, store: Store):
        self.store = store
        self.counts = store.counts
        self.classes = len(store.names)
        self.examples = int(self.counts.sum())
        self.fewest, self.most = int(self.counts.min()), int(self.counts.max())

    def episodes(
        self, tasks: int, ways: int, shots: int, queries: int, generator: torch.Generator, classes_per_way: int = 1
    ) -> Task:
        """Few-shot tasks, class after class.

        Classes are distinct within a task, and examples within a class, so support and query sets are disjoint. Each
        `classes_per_way` consecutive classes have one label.

        Returns:
            `support.x [T, ways * classes_per_way * shots, ...]` and `query.x [T, ways * classes_per_way * queries,
            ...]`, with their labels.
        """
        classes = self.choose(tasks, ways * classes_per_way, generator)
        return self.episodes_of(classes, shots, queries, generator, classes_per_way)

    def episodes_of(
        self, classes: Tensor, shots: int, queries: int, generator: torch.Generator, classes_per_way: int = 1
    ) -> Task:
        """`episodes` of given classes, `[T, ways * classes_per_way]`, distinct within a task."""
        tasks, width = classes.shape
        k = shots + queries
        index = self.of_classes(classes.flatten(), k, generator).view(tasks, width, k)
        label = torch.arange(width, device=generator.device) // classes_per_way
        sets = []
        for chosen, n in ((index[..., :shots], shots), (index[..., shots:], queries)):
            y = label.repeat_interleave(n).repeat(tasks, 1)
            sets.append(Examples(self.store.take(chosen.reshape(tasks, width * n), generator), y))
        return Task(*sets)

    def choose(self, tasks: int, k: int, generator: torch.Generator) -> Tensor:
        """k distinct classes for each of `tasks` tasks, `[tasks, k]`, all ordered choices equally likely."""
        return draw_distinct(tasks, self.classes, k, generator)

    def batches(self, tasks: int, batch_size: int, generator: torch.Generator) -> Examples:
        """`x [T, batch_size, ...]`, `y [T, batch_size]`: examples of the split, all equally likely, and their classes.

        A mini-batch may hold an example twice.
        """
        index = torch.randint(self.examples, (tasks, batch_size), generator=generator, device=generator.device)
        y = torch.searchsorted(self._starts(generator.device), index, right=True) - 1
        return Examples(self.store.take(index, generator), y)

    def pairs(self, tasks: int, pairs: int, generator: torch.Generator) -> Pairs:
        """`x [T, pairs, 2, ...]`, `y [T, pairs]`: the first half of the pairs are of one class each, the others of two.

        All classes, or all ordered choices of two, are equally likely, and so are all examples of a class; a pair of
        one class holds two distinct examples. `pairs` is even.
        """
        n = tasks * pairs // 2
        one = torch.randint(self.classes, (n,), generator=generator, device=generator.device)
        same = self.of_classes(one, 2, generator)
        different = self.of_classes(self.choose(n, 2, generator).flatten(), 1, generator)
        index = torch.cat([half.view(tasks, pairs // 2, 2) for half in (same, different)], 1)
        y = torch.tensor([1, 0], device=generator.device).repeat_interleave(pairs // 2).repeat(tasks, 1)
        return Pairs(self.store.take(index, generator), y)

    def sequences(self, tasks: int, ways: int, instances: int, shots: int, generator: torch.Generator) -> Presentations:
        """`x [T, ways * instances, ...]`: distinct examples of each of `ways` classes, all in a random order.

        Scored are those that `shots` of their class come before.
        """
        classes = self.choose(tasks, ways, generator).flatten()
        index = self.of_classes(classes, instances, generator).view(tasks, ways * instances)
        order = torch.rand(tasks, ways * instances, generator=generator, device=generator.device).argsort(1)
        y = order // instances
        member = y.unsqueeze(-1) == torch.arange(ways, device=y.device)
        before = (member.cumsum(1) * member).sum(-1) - 1  # of the same class
        return Presentations(self.store.take(index.gather(1, order), generator), y, before == shots)

    def of_classes(self, classes: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """`classes [n]` -> `[n, k]`: the numbers of k distinct examples of each, all ordered choices equally likely."""
        if self.fewest == self.most:
            within = draw_distinct(len(classes), self.most, k, generator)
        else:
            within = draw_below(self.counts.to(classes.device)[classes], self.most, k, generator)
        return self._starts(classes.device)[classes][:, None] + within

    def _starts(self, device: torch.device) -> Tensor:
        """Number of each class's first example, `[classes]`."""
        counts = self.counts.to(device)
        return counts.cumsum(0) - counts


class GroupSampler(Sampler):
    """Draws the classes of a task from one group of classes: first a group, all equally likely, then its classes.

    Args:
        store: the examples, group after group.
        sizes: classes of each group.

    Attributes:
        turn: the group of the first of the next tasks, which then take turns; None: groups are drawn.
    """

    def __init__(self, store: Store, sizes: Sequence[int]):
        super().__init__(store)
        self.sizes = torch.tensor(sizes)
        self.turn: int | None = None

    def choose(self, tasks: int, k: int, generator: torch.Generator) -> Tensor:
        sizes, device = self.sizes.to(generator.device), generator.device
        if self.turn is None:
            group = torch.randint(len(sizes), (tasks,), generator=generator, device=device)
        else:
            group = (torch.arange(tasks, device=device) + self.turn) % len(sizes)
        within = draw_below(sizes[group], int(self.sizes.max()), k, generator)
        return (sizes.cumsum(0) - sizes)[group][:, None] + within
