"""Rank of this process, from the environment that torchrun sets; without torch, which --help must not wait for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple


class Ranks(NamedTuple):
    """Rank of this process.

    Attributes:
        rank: index among all processes; 0 is the one that writes.
        world_size: number of processes.
        local_rank: index among those on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0


def ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """The ranks that torchrun set; a single process where it set none.

    Raises:
        ValueError: one of the variables makes no sense; the message names it.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not all(name in environment for name in (*names, "MASTER_ADDR")):
        return Ranks()
    world_size = _whole(environment, "WORLD_SIZE", 1)
    rank = _whole(environment, "RANK", 0, world_size - 1)
    if world_size > 1:
        _whole(environment, "MASTER_PORT", 1, 65_535)
    return Ranks(rank, world_size, _whole(environment, "LOCAL_RANK", 0, world_size - 1))


def _whole(environment: Mapping[str, str], name: str, low: int, high: int | None = None) -> int:
    """A variable's value, an integer from low to high."""
    text = environment.get(name, "")
    if text.strip().isdecimal() and low <= int(text) <= (int(text) if high is None else high):
        return int(text)
    wanted = f"of at least {low}" if high is None else f"from {low} to {high}"
    raise ValueError(
        f"the environment variable {name} must be an integer {wanted}; got {text!r}. torchrun sets it for each process"
    )
