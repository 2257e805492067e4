"""A checkpoint is whole or not there, whatever interrupts the writing."""

from __future__ import annotations

import errno
import json
import random

import pytest
import torch

from metarun import files
from metarun.training import checkpoint

WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3), "progress": torch.tensor(0.5)}
STATE = {"iteration": 7, "generators": {"noise": torch.Generator().manual_seed(3).get_state()}}


def write(folder, iteration, name="last", details=None):
    weights = {key: value + iteration for key, value in WEIGHTS.items()}
    checkpoint.save(folder, name, iteration, weights, STATE | {"iteration": iteration}, details or {})


def assert_whole(folder, iteration, name="last"):
    loaded = checkpoint.load(folder, name)
    assert loaded.details["iteration"] == loaded.state["iteration"] == iteration
    for key, value in WEIGHTS.items():
        assert torch.equal(loaded.weights[key], value + iteration)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_loaded_is_what_was_saved(tmp_path):
    details = {"best": 0.1 + 0.2, "losses": [1 / 3, 2e-45], "compiled": False}
    write(tmp_path, 7, details=details)
    loaded = checkpoint.load(tmp_path, "last")
    assert loaded.details.items() >= details.items()
    assert loaded.weights["w"].dtype == torch.float32
    assert torch.equal(loaded.state["generators"]["noise"], STATE["generators"]["noise"])
    assert_whole(tmp_path, 7)


def test_weights_that_share_memory_or_are_strided_are_saved_as_they_are(tmp_path):
    shared = torch.arange(6.0)
    weights = {"a": shared, "b": shared, "transposed": shared.view(2, 3).T}
    checkpoint.save(tmp_path, "last", 1, weights, {}, {})
    loaded = checkpoint.load(tmp_path, "last").weights
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())


def test_a_checkpoint_replaces_only_its_namesake(tmp_path):
    write(tmp_path, 5, "best")
    for iteration in (5, 6, 7):
        write(tmp_path, iteration)
    assert_whole(tmp_path, 5, "best")
    assert_whole(tmp_path, 7)
    assert len(names(tmp_path)) == 6


@pytest.mark.parametrize("survives", [0, 1, 2])
def test_a_process_killed_between_two_files_leaves_the_previous_checkpoint(survives, tmp_path, monkeypatch):
    write(tmp_path, 1)
    written = []

    class Killed(BaseException):
        pass

    def replace(source, target):
        if len(written) == survives:
            raise Killed
        written.append(target)
        original(source, target)

    original = files.os.replace
    monkeypatch.setattr(files.os, "replace", replace)
    monkeypatch.setattr(files.Path, "unlink", lambda *_, **__: None)  # a killed process removes nothing
    with pytest.raises(Killed):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert_whole(tmp_path, 1)
    write(tmp_path, 3)  # and the next one removes leftovers
    assert_whole(tmp_path, 3)
    assert names(tmp_path) == ["last-00000003.safetensors", "last-00000003.state", "last.json"]


@pytest.mark.parametrize("room", [0, 10, 200, 700])
def test_a_full_disk_leaves_the_previous_checkpoint(room, tmp_path, monkeypatch):
    write(tmp_path, 1)
    opened = files.os.fdopen

    def fdopen(*arguments, **keywords):
        return Full(opened(*arguments, **keywords), room)

    monkeypatch.setattr(files.os, "fdopen", fdopen)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert_whole(tmp_path, 1)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


class Full:
    """A file on a disk that takes `room` bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.file.write(bytes(data)[: self.room])
        if len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(data)
        return len(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()


def test_a_missing_checkpoint_is_named(tmp_path):
    assert not checkpoint.exists(tmp_path, "best")
    with pytest.raises(FileNotFoundError, match="'best'"):
        checkpoint.load(tmp_path, "best")


def test_nan_in_the_details_does_not_make_bad_json(tmp_path):
    write(tmp_path, 1, details={"best": float("nan")})
    assert json.loads((tmp_path / "last.json").read_text())["best"] is None


def test_a_state_that_would_run_code_is_not_loaded(tmp_path):
    write(tmp_path, 1)
    torch.save({"evil": random.Random}, tmp_path / "last-00000001.state")
    with pytest.raises(Exception, match="[Ww]eights"):
        checkpoint.load(tmp_path, "last")
