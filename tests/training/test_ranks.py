"""Ranks of this process."""

from __future__ import annotations

from metarun.training.ranks import Ranks, ranks


def test_ranks_are_torchruns():
    environment = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost"}
    assert ranks(environment) == (3, 4, 1)
    for name in environment:  # a cluster scheduler sets some of them
        assert ranks({k: v for k, v in environment.items() if k != name}) == Ranks(0, 1, 0)
