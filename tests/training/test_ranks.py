"""Which process of several this is."""

from __future__ import annotations

from metarun.training.ranks import Ranks, ranks


def test_ranks_are_torchruns():
    told = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost"}
    assert ranks(told) == (3, 4, 1)
    for name in told:  # a scheduler's own variables are not enough
        assert ranks({k: v for k, v in told.items() if k != name}) == Ranks(0, 1, 0)
