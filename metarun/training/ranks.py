"""Which of several processes this is, as torchrun says in the environment; without torch, for --help does not wait."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple


class Ranks(NamedTuple):
    """Number of this process (0: the one that writes), of how many, and its number on this machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0


def ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """What torchrun says; one process where it does not."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not all(name in environment for name in (*names, "MASTER_ADDR")):
        return Ranks()
    return Ranks(*(int(environment[name]) for name in names))
