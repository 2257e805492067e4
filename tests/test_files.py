"""Files are written completely or not at all; JSON has no NaN."""

from __future__ import annotations

import json
import math
import os

import pytest

from metarun.files import remove_leftovers, without_nan, write_atomically, write_json, write_text


def test_json_holds_no_nan(tmp_path):
    write_json(tmp_path / "result.json", {"mean": math.nan, "steps": [{"ci95": math.inf}], "ok": 1.5})
    assert "NaN" not in (tmp_path / "result.json").read_text()
    read = json.loads((tmp_path / "result.json").read_text())
    assert read == {"mean": None, "steps": [{"ci95": None}], "ok": 1.5}


def test_only_numbers_that_json_lacks_become_none():
    value = {"a": (1, -math.inf, "NaN"), "b": [True, None, {"c": math.nan, "d": 1e308}]}
    assert without_nan(value) == {"a": [1, None, "NaN"], "b": [True, None, {"c": None, "d": 1e308}]}


def test_text_is_written_in_utf_8_with_folders_and_readable_for_others(tmp_path):
    path = tmp_path / "new" / "folder" / "note.txt"
    write_text(path, "α → β\n")
    assert path.read_bytes() == "α → β\n".encode()
    write_text(path, "shorter")
    assert path.read_text() == "shorter"


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"good": 1})

    def half(file):
        file.write(b'{"ha')
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, half)
    assert json.loads(path.read_text()) == {"good": 1}
    assert os.listdir(tmp_path) == ["result.json"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_has_the_mode_that_the_user_s_umask_leaves(mask, tmp_path):
    path = tmp_path / "result.json"
    before = os.umask(mask)
    try:
        for _ in range(2):  # new, and replaced
            write_text(path, "text")
            assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    finally:
        os.umask(before)


def test_what_is_no_regular_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to(os.devnull)
    for name in ("pipe", "folder", "device"):
        before = (tmp_path / name).lstat()
        with pytest.raises(OSError, match=f"{name} is not a regular file, and is not replaced"):
            write_text(tmp_path / name, "text")
        assert (tmp_path / name).lstat() == before
    assert sorted(os.listdir(tmp_path)) == ["device", "folder", "pipe"]


def test_names_that_are_no_text_are_escapes_that_json_reads(tmp_path):
    name = os.fsdecode(b"run_\xff")
    write_json(tmp_path / "sweep.json", {"folder": name})
    assert json.loads((tmp_path / "sweep.json").read_text()) == {"folder": name}


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    left = [".step_curve.png.k3j_x9ab", ".result.json.0a1b2c3d", ".last-00000003.state.0a1b2c3d", ".hydra.0a1b2c3d"]
    mine = [".git", ".env.settings", "result.json", ".lock", ".hydra", "x.png.0a1b2c3d", ".metrics.jsonl"]
    for name in (*left, *mine):
        if name.startswith(".hydra"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.yaml").write_text("")
        else:
            (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(mine)
    remove_leftovers(tmp_path / "nowhere")


def test_what_a_write_leaves_when_it_is_killed_is_such_a_leftover(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(file):
        raise Killed

    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
    for name in ("result.json", "step_curve.png", "last-00000003.safetensors", "episodes.npz", "multirun.yaml"):
        with pytest.raises(Killed):
            write_atomically(tmp_path / name, killed)
    monkeypatch.undo()
    assert len(os.listdir(tmp_path)) == 5
    remove_leftovers(tmp_path)
    assert not os.listdir(tmp_path)
