"""Ranks of this process."""

from __future__ import annotations

import pytest
from commands import metarun

from metarun.training.ranks import Ranks, ranks


def test_ranks_are_torchruns():
    environment = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost"}
    assert ranks(environment) == (3, 4, 1)
    for name in environment:  # a cluster scheduler sets some of them
        assert ranks({k: v for k, v in environment.items() if k != name}) == Ranks(0, 1, 0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RANK", "abc", "RANK must be an integer of at least 0, as torchrun sets it; got 'abc'"),
        ("RANK", "-1", "RANK must be an integer of at least 0, as torchrun sets it; got '-1'"),
        ("WORLD_SIZE", "", "WORLD_SIZE must be an integer of at least 0, as torchrun sets it; got ''"),
        ("LOCAL_RANK", "1.5", "LOCAL_RANK must be an integer of at least 0, as torchrun sets it; got '1.5'"),
        ("RANK", "2", "RANK must be below WORLD_SIZE=2, as torchrun sets it; got 2"),
    ],
)
def test_ranks_that_make_no_sense_are_refused_by_their_name(name, value, message, tmp_path, monkeypatch):
    environment = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"} | {name: value}
    with pytest.raises(ValueError) as error:
        ranks(environment)
    assert str(error.value) == message
    for key, text in environment.items():
        monkeypatch.setenv(key, text)
    outcome = metarun("algo=maml", folder=tmp_path)
    assert (outcome.status, outcome.out, outcome.err) == (2, "", f"metarun: {message}\n")
