"""Random numbers: seeded streams of them, and samples without replacement."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def draw_distinct(rows: int, population: int, k: int, generator: torch.Generator) -> Tensor:
    """Draw k distinct integers below `population` in each row; all ordered choices are equally likely.

    Returns:
        `[rows, k]` int64.
    """
    device = generator.device
    if 2 * k * k > population:
        return torch.rand(rows, population, generator=generator, device=device).topk(k, dim=1).indices
    # Repetitions are rare: draw with replacement, and redraw each row that holds one as a whole (redrawing only the
    # repeated number would favour some choices). This takes rows * k random numbers, not rows * population.
    samples = torch.randint(population, (rows, k), generator=generator, device=device)
    while (repeated := _rows_with_repetitions(samples)) is not None:
        samples[repeated] = torch.randint(population, (len(repeated), k), generator=generator, device=device)
    return samples


def _rows_with_repetitions(samples: Tensor) -> Tensor | None:
    """Indices of the rows that hold a number twice; None if no row does."""
    ordered = samples.sort(dim=1).values
    equal = ordered[:, 1:] == ordered[:, :-1]
    return equal.any(1).nonzero().flatten() if equal.any() else None


def draw_below(counts: Tensor, largest: int, k: int, generator: torch.Generator) -> Tensor:
    """Draw k distinct integers in each row, below that row's count.

    Args:
        counts: `[rows]`, each at least k.
        largest: upper bound of `counts`.
        k: integers per row.
        generator: the source of random numbers.

    Returns:
        `[rows, k]` int64.
    """
    keys = torch.rand(len(counts), largest, generator=generator, device=generator.device)
    beyond = torch.arange(largest, device=generator.device) >= counts[:, None]
    return keys.masked_fill_(beyond, -1.0).topk(k, dim=1).indices


def stream_seed(*names: object) -> int:
    """Compute a 63-bit seed from any names; the same in every process and on every machine."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream_generator(device: torch.device | str, *names: object) -> torch.Generator:
    """Make a generator on `device` for one stream of random numbers, seeded by the stream's names alone."""
    generator = torch.Generator(device=device)
    generator.manual_seed(stream_seed(*names))
    return generator
