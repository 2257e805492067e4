"""A cell is read, resumed or started."""

from __future__ import annotations

import json

import pytest

from scripts.reproduce import run as module
from scripts.reproduce.cells import Cell

CELL = Cell("maml", ["algo=maml"], [0])


@pytest.fixture
def commands(monkeypatch):
    """The arguments of `metarun` that were called."""
    calls: list[list[str]] = []
    monkeypatch.setattr(module.subprocess, "run", lambda command, **_: calls.append(command[3:]))
    return calls


@pytest.mark.parametrize("status", ["completed", "diverged"])
def test_what_has_ended_is_read(tmp_path, commands, status):
    (tmp_path / "result.json").write_text(json.dumps({"format": 1, "status": status}))
    assert module.run(CELL, 0, tmp_path) == {"format": 1, "status": status}
    assert commands == []


def test_what_was_interrupted_is_resumed(tmp_path, commands):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "result.json").write_text('{"format": 1, "status": "interrupted"}')
    assert module.run(CELL, 0, tmp_path)["status"] == "interrupted"
    assert commands == [[f"run.resume={tmp_path}"]]


def test_what_is_missing_is_started(tmp_path, commands):
    assert module.run(CELL, 2, tmp_path) == {"status": "refused"}
    assert commands == [["algo=maml", "seed=2", f"hydra.run.dir={tmp_path}"]]
