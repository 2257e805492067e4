"""Ranks of this process."""

from __future__ import annotations

import pytest

from metarun.training.ranks import Ranks, ranks


def test_ranks_are_torchruns():
    environment = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost"}
    environment["MASTER_PORT"] = "29500"
    assert ranks(environment) == (3, 4, 1)
    for name in set(environment) - {"MASTER_PORT"}:  # a cluster scheduler sets some of them
        assert ranks({k: v for k, v in environment.items() if k != name}) == Ranks(0, 1, 0)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("RANK", "abc", "from 0 to 1"),
        ("RANK", "5", "from 0 to 1"),
        ("RANK", "-1", "from 0 to 1"),
        ("RANK", "1.0", "from 0 to 1"),
        ("WORLD_SIZE", "0", "of at least 1"),
        ("WORLD_SIZE", "", "of at least 1"),
        ("LOCAL_RANK", "2", "from 0 to 1"),
        ("MASTER_PORT", "port", "from 1 to 65535"),
        ("MASTER_PORT", None, "from 1 to 65535"),
    ],
)
def test_a_variable_without_sense_is_refused_by_name(name, value, wanted):
    environment = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost"}
    environment |= {"MASTER_PORT": "29500", name: value or ""}
    with pytest.raises(ValueError, match=f"^the environment variable {name} must be an integer {wanted}; got"):
        ranks({key: text for key, text in environment.items() if (key, value) != ("MASTER_PORT", None)})
