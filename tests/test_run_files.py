"""What a run's files must hold; the kinds of harm are in `tests/helpers/damage.py` and go through a whole report."""

from __future__ import annotations

import os

import numpy as np
import pytest
from damage import EPISODES
from runs import result_of, write_run

from metarun import run_files
from metarun.run_files import bounded, checked_result, parse_json, read_bytes, read_episodes


def test_what_a_run_writes_is_accepted():
    whole = result_of("maml", 0, 0.5, "completed")
    assert checked_result(whole) == whole
    few = {"status": "failed", "algo": None, "seed": None, "overrides": ["seed=0"], "mean": None, "error": "why"}
    assert checked_result(few) == few
    assert checked_result(whole | {"unknown": {"to": ["this", "version"]}})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mean", "0.5", "mean must be a number or null; got '0.5'"),
        ("ci95", -1, "ci95 must be a number of at least 0, or null; got -1"),
        ("status", "done", "status must be one of completed, diverged, failed, interrupted; got 'done'"),
        ("metric", ["x"] * 100, r"metric must be text or null; got \"\['x', .*\.\.\.\""),
    ],
)
def test_a_field_of_another_type_is_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        checked_result(result_of("maml", 0, 0.5, "completed") | {field: value})


def test_nan_is_not_json():
    assert parse_json('{"a": 1e3}') == {"a": 1000.0}
    for word in ("NaN", "Infinity", "-Infinity"):
        with pytest.raises(ValueError, match=f"{word} is not JSON"):
            parse_json(f'{{"a": {word}}}')


def test_structures_of_any_size_but_a_run_s_are_refused(monkeypatch):
    assert bounded({"a": [1, {"b": (2, 3)}]}) == {"a": [1, {"b": (2, 3)}]}
    circle: list = []
    circle.append(circle)
    with pytest.raises(ValueError, match="nested more than 100 levels deep"):
        bounded(circle)
    monkeypatch.setattr(run_files, "MOST_NODES", 5)
    with pytest.raises(ValueError, match="more than 5 values"):
        bounded([1] * 5)


def test_only_regular_files_of_a_run_s_size_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bytes(tmp_path / "file", most=5) == b"12345"
    with pytest.raises(ValueError, match="it has 5 bytes, and at most 4 are read"):
        read_bytes(tmp_path / "file", most=4)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            read_bytes(path)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none")


def test_the_tasks_of_the_headline_s_step(tmp_path):
    np.savez(tmp_path / "episodes.npz", headline_step=1, mse=np.arange(6.0).reshape(3, 2), auc=np.arange(3.0))
    assert read_episodes(tmp_path / "episodes.npz", "mse").tolist() == [1, 3, 5]
    assert read_episodes(tmp_path / "episodes.npz", "auc").tolist() == [0, 1, 2]


WHOLE = ("NaN on a task", "infinity on a task", "other tasks than the result's", "no tasks")


@pytest.mark.parametrize("name", EPISODES)
def test_damaged_tasks_are_a_value_error_in_one_line(name, tmp_path):
    file = write_run(tmp_path / "run") / "episodes.npz"
    EPISODES[name](file)
    if name in WHOLE:
        assert read_episodes(file, "mse").ndim == 1
        return
    with pytest.raises(ValueError, match=r"^(there is no episodes.npz|episodes.npz cannot be read: .+)$"):
        read_episodes(file, "mse")
