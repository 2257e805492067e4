"""A cell is read, resumed or started; what is another run's is put aside."""

from __future__ import annotations

import json
import os

import pytest
import yaml

from scripts.reproduce import run as module
from scripts.reproduce.cells import Cell
from scripts.results.configuration import composed

CELL = Cell("maml", ["algo=maml"], [0])


@pytest.fixture
def commands(monkeypatch):
    """The arguments of `metarun` that were called."""
    calls: list[list[str]] = []
    monkeypatch.setattr(module.subprocess, "run", lambda command, **_: calls.append(command[3:]))
    return calls


def write(folder, status: str, overrides=("algo=maml", "seed=0"), version: int = 1, **changes) -> None:
    """What a run leaves: its result, its configuration, what was typed."""
    config = composed([word for word in overrides if not word.startswith("run.evaluate")])
    config["run"] |= changes
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    (folder / "result.json").write_text(json.dumps({"format": version, "status": status}))


@pytest.mark.parametrize("status", ["completed", "diverged"])
def test_what_has_ended_is_read(tmp_path, commands, status):
    write(tmp_path / "run", status)
    assert module.run(CELL, 0, tmp_path / "run") == {"format": 1, "status": status}
    assert commands == []


def test_what_was_interrupted_is_resumed(tmp_path, commands):
    write(tmp_path / "run", "interrupted")
    (tmp_path / "run" / "checkpoint").mkdir()
    assert module.run(CELL, 0, tmp_path / "run")["status"] == "interrupted"
    assert commands == [[f"run.resume={tmp_path / 'run'}"]]


def test_what_is_missing_is_started(tmp_path, commands):
    assert module.run(CELL, 2, tmp_path) == {"status": "refused"}
    assert commands == [["algo=maml", "seed=2", f"hydra.run.dir={tmp_path}"]]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iterations": 12}, "its configuration is another"),
        ({"overrides": ("algo=maml", "seed=1")}, "its configuration is another"),
        ({"version": 0}, "its result has format 0, not 1"),
    ],
)
def test_another_run_is_put_aside_and_the_cell_run_again(tmp_path, commands, capsys, changes, why):
    write(tmp_path / "run", "completed", **changes)
    (tmp_path / "run.1").mkdir()  # put aside before
    assert module.run(CELL, 0, tmp_path / "run") == {"status": "refused"}
    assert commands == [["algo=maml", "seed=0", f"hydra.run.dir={tmp_path / 'run'}"]]
    assert capsys.readouterr().out == f"run runs again: {why}; what was there is now run.2\n"
    assert (tmp_path / "run.2" / "result.json").is_file()


def test_a_damaged_configuration_is_another(tmp_path):
    write(tmp_path, "completed")
    (tmp_path / ".hydra" / "config.yaml").write_text("[")
    assert "is damaged" in module.why_other(["algo=maml", "seed=0"], tmp_path)


def test_a_test_of_a_saved_run_is_the_same_while_that_run_is(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    overrides = ("run.evaluate=trained", "data.shots=5", "seed=0")
    write(tmp_path / "trained", "completed")
    write(tmp_path / "tested", "completed", overrides)
    os.utime(tmp_path / "trained" / "result.json", (1, 1))
    assert module.why_other(overrides, tmp_path / "tested") is None
    assert module.why_other(["run.evaluate=trained", "seed=0"], tmp_path / "tested") == "its overrides are others"
    os.utime(tmp_path / "tested" / "result.json", (0, 0))
    assert module.why_other(overrides, tmp_path / "tested") == "trained was trained anew"


def test_the_seed_stands_in_the_place_of_a_saved_run():
    cell = Cell("tested", ["run.evaluate=alpaca_seed{seed}", "data.shots=5"], [0, 1])
    assert cell.command(1) == ["run.evaluate=alpaca_seed1", "data.shots=5", "seed=1"]
