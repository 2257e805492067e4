"""Hard tasks: remember the classes with the lowest accuracy, and now and then sample tasks of these classes alone.

Sun, Liu, Chua, Schiele: Meta-Transfer Learning for Few-Shot Learning, CVPR 2019, section 4.3, where this is called the
hard task (HT) meta-batch. The official codes do not contain it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metarun.sampling import draw_distinct


class HardClassMemory(nn.Module):
    """A memory of hard classes. Its state is in buffers, so that checkpoints save it.

    Args:
        every: outer steps between two steps on hard tasks; 0: no hard tasks.
        memory: number of classes to remember, the latest.

    Attributes:
        classes: `[memory]` int64, the latest first; -1: none yet.
        since: 0-dim int64, outer steps since the last one on hard tasks; -1: the next one is on hard tasks.
        gathered: classes collected in this outer step; processes merge theirs (metarun/training/distributed.py).
    """

    classes: Tensor
    since: Tensor

    def __init__(self, every: int, memory: int) -> None:
        super().__init__()
        self.every = every
        self.register_buffer("classes", torch.full((memory,), -1))
        self.register_buffer("since", torch.tensor(0))
        self.gathered: list[Tensor] = []

    def collect(self, classes: Tensor, right: Tensor) -> None:
        """Collect the worst class of each task of a micro-batch, until the outer step ends.

        Args:
            classes: of the tasks' ways, `[T, ways]`.
            right: the accuracy on each way's queries, `[T, ways]`. In a tie the first way counts.
        """
        self.gathered.append(classes.gather(1, right.argmin(1, keepdim=True)).squeeze(1))

    def update(self) -> None:
        """Remember the classes collected in this outer step, unless its tasks were hard ones."""
        if not self.gathered:
            return
        if self.since >= 0:
            self.classes.copy_(torch.cat([*self.gathered, self.classes])[: len(self.classes)])
        self.since += 1
        self.gathered.clear()

    def sample(self, tasks: int, ways: int, generator: torch.Generator) -> Tensor | None:
        """Sample the classes of the next step's tasks among the remembered ones.

        All remembered classes are equally likely, and distinct within a task.

        Returns:
            Classes `[tasks, ways]`; None: the next step is not on hard tasks, or fewer than `ways` are remembered.
        """
        if not self.every or self.since < self.every:
            return None
        remembered = self.classes[self.classes >= 0].unique()
        if len(remembered) < ways:
            return None
        self.since.fill_(-1)
        return remembered[draw_distinct(tasks, len(remembered), ways, generator)]
