"""Hard tasks: the classes that tasks fared worst on are remembered, and now and then tasks are drawn of these alone.

Sun, Liu, Chua, Schiele: Meta-Transfer Learning for Few-Shot Learning, CVPR 2019, section 4.3, where this is called the
hard task (HT) meta-batch. There is no official code of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metarun.sampling import draw_distinct


class HardClassMemory(nn.Module):
    """The memory. What it knows are buffers, so that a checkpoint holds it.

    Args:
        every: outer steps between two on hard tasks; 0: there are none.
        memory: failures that are remembered, the latest.

    Attributes:
        classes: `[memory]` int64, the latest first; -1 where there is none yet.
        since: 0-dim int64, outer steps since the last on hard tasks; -1: that is the one to come.
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
        """Keep the worst class of each task of a chunk until the step is over.

        Args:
            classes: of the tasks' ways, `[T, ways]`.
            right: share of each way's queries that were classified rightly, `[T, ways]`; of equals the first counts.
        """
        self.gathered.append(classes.gather(1, right.argmin(1, keepdim=True)).squeeze(1))

    def update(self) -> None:
        """Remember what was gathered in this outer step, unless its tasks were hard ones."""
        if not self.gathered:
            return
        if self.since >= 0:
            self.classes.copy_(torch.cat([*self.gathered, self.classes])[: len(self.classes)])
        self.since += 1
        self.gathered.clear()

    def sample(self, tasks: int, ways: int, generator: torch.Generator) -> Tensor | None:
        """Classes `[tasks, ways]` for the step to come, all equally likely, distinct in each task; None: any tasks.

        There is no wish while fewer classes than `ways` are remembered.
        """
        if not self.every or self.since < self.every:
            return None
        known = self.classes[self.classes >= 0].unique()
        if len(known) < ways:
            return None
        self.since.fill_(-1)
        return known[draw_distinct(tasks, len(known), ways, generator)]
