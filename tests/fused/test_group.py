"""A program that is resumed is the one that was begun: digit for digit, wherever its process was killed."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import SMALL, metarun
from fused_sweeps import TIMES

from metarun.fused.group import FILE, read_place
from metarun.run_folder import read_result
from metarun.tracking.jsonl import read_metrics
from metarun.training.checkpoint import load

SWEEP = (
    *("-m", *SMALL, "hydra/launcher=fused", "algo=maml", "optimizer.lr=0.001,0.02"),
    *("algo.inner_lr=0.01,1e30", "data.noise=0,0.1", "run.iterations=6", "run.validate_every=2", "run.log_every=4"),
    *("run.checkpoint_seconds=0", "device.compile=false", "device=cpu", "hydra.sweep.dir=sweep"),
)


class KilledError(BaseException):
    """The process is gone: nothing that follows is done."""


class Killer:
    """Ends the process when so many files have been put in place."""

    def __init__(self, after: int | None) -> None:
        self.after, self.files, self.replace = after, 0, os.replace

    def __call__(self, source: str, target: Path) -> None:
        self.files += 1
        if self.after is not None and self.files > self.after:
            raise KilledError
        self.replace(source, target)


def swept(folder: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int | None = None) -> int:
    """Sweep; returns how many files were put in place."""
    killer = Killer(killed_after)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killer)
        patch.setattr(os, "fsync", lambda _: None)  # the machine stays
        if killed_after is None:
            assert metarun(*SWEEP, folder=folder).status == 3  # those of a huge rate diverge
        else:
            with pytest.raises(KilledError):
                metarun(*SWEEP, folder=folder)
    return killer.files


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as monkeypatch:
        return folder / "sweep", swept(folder, monkeypatch)


def digits(folder: Path) -> dict[str, dict]:
    """All that each cell left, but for what tells of time."""
    cells = {}
    for cell in sorted(path.parent for path in folder.glob("*/result.json")):
        left = {key: value for key, value in read_result(cell).items() if key not in (*TIMES, "versions", "traceback")}
        left["replicas"] = read_result(cell)["replicas"]
        left["metrics.jsonl"] = [
            {key: value for key, value in row.items() if not key.startswith("time/")}
            for row in read_metrics(cell / "metrics.jsonl")
        ]
        if left["status"] == "completed":
            with np.load(cell / "episodes.npz") as episodes:
                left["episodes.npz"] = {name: episodes[name].tolist() for name in episodes.files}
            for name in ("best", "last"):
                saved = load(cell / "checkpoint", name)
                left[name] = json.dumps(listed((saved.weights, saved.state)), default=str)
        cells[cell.name] = left
    return cells


def listed(value):
    if isinstance(value, torch.Tensor):
        return value.double().tolist()
    if isinstance(value, dict):
        return {str(key): listed(entry) for key, entry in value.items()}
    return [listed(entry) for entry in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_program_ends_as_the_unbroken_one_digit_for_digit(seed, unbroken, tmp_path, monkeypatch):
    folder, files = unbroken
    moments = random.Random(seed)
    for _ in range(2):  # and once more while it is resumed
        try:
            swept(tmp_path, monkeypatch, killed_after=moments.randrange(10, files - 10))
        except pytest.fail.Exception:  # it was resumed near its end, and did not come so far again
            break
    if any(read_result(path.parent)["status"] is None for path in tmp_path.glob("sweep/*/result.json")):
        raise AssertionError("a result that says nothing")
    assert metarun(*SWEEP, folder=tmp_path).status == 3
    ours, theirs = digits(tmp_path / "sweep"), digits(folder)
    assert set(ours) == set(theirs) and len(ours) == 8
    for name in theirs:
        for key in theirs[name]:
            assert ours[name][key] == theirs[name][key], f"{name}: {key}"


def test_a_place_that_cannot_be_read_is_none(unbroken, tmp_path):
    folder, _ = unbroken
    cells = sorted(path.parent for path in folder.glob("*/result.json"))
    groups = [read_place(cell) for cell in cells]
    assert sorted(place for _, place in groups) == list(range(8)) and len({group.name for group, _ in groups}) == 1
    assert read_place(tmp_path) is None
    (tmp_path / FILE).parent.mkdir()
    for text in ("{", "[]", "{}", '{"place": 9, "name": "x", "rates": [{}], "data": [0]}'):
        (tmp_path / FILE).write_text(text)
        assert read_place(tmp_path) is None
