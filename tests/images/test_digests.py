"""Digests follow contents: what has not changed is read once, what has changed is read again whatever its date says."""

import os
import shutil
import time

import pytest

from metarun.images import digests
from metarun.images.digests import content_digests
from metarun.images.files import open_regular
from metarun.tasks import DataError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    for name, content in (("a/1.png", b"one"), ("a/2.png", b"two"), ("a/3.png", b"one")):
        (tmp_path / "data" / name).write_bytes(content)
    return tmp_path / "data"


NAMES = ["a/1.png", "a/2.png", "a/3.png"]


@pytest.fixture
def opened(monkeypatch):
    """Files opened since the last look; files are old enough to be remembered."""
    monkeypatch.setattr(digests, "SETTLED", -60.0)
    names = []

    def open_and_note(path):
        names.append(path.name)
        return open_regular(path)

    def look(folder, which=NAMES):
        names.clear()
        found = content_digests(folder, which, open_and_note)
        return found, sorted(names)

    return look


def test_digests_are_of_contents(folder, opened):
    found, _ = opened(folder)
    assert list(found) == NAMES
    assert found["a/1.png"] == found["a/3.png"] != found["a/2.png"]


def test_what_has_not_changed_is_read_once(folder, opened):
    first, read = opened(folder)
    assert read == ["1.png", "2.png", "3.png"]
    assert opened(folder) == (first, [])


def test_a_changed_file_is_read_again_although_size_and_date_are_the_old_ones(folder, opened):
    first, _ = opened(folder)
    before = (folder / "a" / "2.png").stat()
    time.sleep(0.02)
    (folder / "a" / "2.png").write_bytes(b"TWO")
    os.utime(folder / "a" / "2.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    second, read = opened(folder)
    assert read == ["2.png"] and second["a/2.png"] != first["a/2.png"]


def test_a_copy_and_a_moved_folder_have_the_same_digests(folder, opened, tmp_path):
    first, _ = opened(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert opened(tmp_path / "copy")[0] == first
    shutil.move(folder, tmp_path / "elsewhere")
    assert opened(tmp_path / "elsewhere")[0] == first


def test_a_file_that_has_just_changed_is_not_remembered(folder, opened, monkeypatch):
    """It may change again within the clock's tick."""
    monkeypatch.setattr(digests, "SETTLED", 2.0)
    opened(folder)
    assert opened(folder)[1] == ["1.png", "2.png", "3.png"]


@pytest.mark.parametrize("damage", [b"", b"[1]", b'{"a/1.png": 3}', b'{"a/1.png": [[], 3]}', b"\xff"])
def test_a_damaged_memo_is_made_again(folder, opened, cache, damage):
    first, _ = opened(folder)
    (memo,) = (cache / "digests").iterdir()
    memo.write_bytes(damage)
    assert opened(folder) == (first, ["1.png", "2.png", "3.png"])
    assert opened(folder) == (first, [])


def test_a_cache_that_cannot_be_written_is_done_without(folder, opened, cache):
    cache.mkdir()
    (cache / "digests").write_text("a file")
    assert opened(folder)[0] == opened(folder)[0]


def test_a_missing_file_is_named(folder, opened):
    with pytest.raises(DataError, match=r"a/9\.png cannot be read \(No such file"):
        opened(folder, ["a/9.png"])
