"""TODO."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass


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


def stream_seed(*names: object) -> int:
    """A 63-bit seed from any names, the same in every process and on every machine."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream_generator(device: torch.device | str, *names: object) -> torch.Generator:
    """A generator on `device` for one stream of random numbers, seeded by its names alone."""
    generator = torch.Generator(device=device)
    generator.manual_seed(stream_seed(*names))
    return generator
