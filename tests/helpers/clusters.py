"""Small classification tasks for tests of heads on embeddings."""

from __future__ import annotations

import torch

from metarun.tasks import Examples, Task


def tasks(shots: int = 2, queries: int = 3, ways: int = 3, count: int = 4, seed: int = 0) -> Task:
    """`count` tasks of noisy classes in four dimensions, float64; labels in any order."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(count, ways, 4, generator=generator).double()
    sets = []
    for n in (shots * ways, queries * ways):
        y = torch.stack([torch.randperm(n, generator=generator).remainder(ways) for _ in range(count)])
        x = torch.stack([c[labels] for c, labels in zip(centres, y, strict=True)])
        sets.append(Examples(x + 0.5 * torch.randn(x.shape, generator=generator).double(), y))
    return Task(*sets)


def one(batch: Task, t: int = 0) -> Task:
    """Task number t of a batch."""
    return Task(*(Examples(*(leaf[t] for leaf in examples)) for examples in batch))
