"""Rank of this process, from the environment that torchrun sets; without torch, which --help must not wait for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from metarun.checks import require


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
        ValueError: one of them is no number, or this process is none of those that there are.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not all(name in environment for name in (*names, "MASTER_ADDR")):
        return Ranks()
    for name in names:
        value = environment[name]
        require(name, value, value.isascii() and value.isdigit(), "an integer of at least 0, as torchrun sets it")
    found = Ranks(*(int(environment[name]) for name in names))
    what = f"below WORLD_SIZE={found.world_size}, as torchrun sets it"
    require("RANK", found.rank, found.rank < found.world_size, what)
    return found
