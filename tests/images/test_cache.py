"""The cache: built once, whole or not at all, whatever happens to the process that builds."""

import multiprocessing
import os
import shutil
import time
import warnings

import numpy as np
import pytest
import torch

from metarun.images.cache import Contents, cached, clear, entries
from metarun.tasks import DataError


def contents(chunks, classes=2):
    return Contents([f"c{i}" for i in range(classes)], [3] * classes, (1, 2, 2), iter(chunks))


def block(value, n=3):
    return np.full((n, 1, 2, 2), value, np.uint8)


def refuse():
    raise AssertionError("built again")


def test_built_once_then_read_without_a_warning(cache):
    first = cached("toy", ["k"], lambda: contents([block(1), block(2)]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = cached("toy", ["k"], refuse)
    for images in (first, second):
        assert images.pixels.shape == (6, 1, 2, 2) and images.pixels.dtype == torch.uint8
        assert images.pixels[:3].unique().tolist() == [1] and images.pixels[3:].unique().tolist() == [2]
        assert images.names == ("c0", "c1") and images.counts.tolist() == [3, 3] and images.starts.tolist() == [0, 3]


def test_another_key_is_another_cache():
    cached("toy", ["k"], lambda: contents([block(1), block(2)]))
    assert cached("toy", ["other"], lambda: contents([block(7), block(8)])).pixels[0, 0, 0, 0] == 7


def test_a_failed_build_leaves_nothing(cache):
    def broken():
        yield block(1)
        raise DataError("second chunk cannot be read")

    with pytest.raises(DataError, match="second chunk"):
        cached("toy", ["k"], lambda: contents(broken()))
    assert [path for path in (cache / "images").iterdir() if path.suffix != ".lock"] == []


def test_too_few_images_are_noticed_before_the_cache_gets_its_name(cache):
    with pytest.raises(AssertionError, match="3 images written, 6 promised"):
        cached("toy", ["k"], lambda: contents([block(1)]))
    assert cached("toy", ["k"], lambda: contents([block(1), block(2)])).pixels.shape[0] == 6


def entry(cache):
    (folder,) = (path for path in (cache / "images").iterdir() if path.is_dir())
    return folder


def cut(path, n):
    path.write_bytes(path.read_bytes()[:n])


DAMAGE = {
    "no index": lambda place: (place / "index.json").unlink(),
    "an empty index": lambda place: cut(place / "index.json", 0),
    "a cut index": lambda place: cut(place / "index.json", 20),
    "another index": lambda place: (place / "index.json").write_text("[1]"),
    "other counts": lambda place: (place / "index.json").write_text('{"names": ["a"], "counts": [3], "notes": []}'),
    "no pixels": lambda place: (place / "pixels.npy").unlink(),
    "cut pixels": lambda place: cut(place / "pixels.npy", -1),
    "no head": lambda place: (place / "pixels.npy").write_bytes(bytes(200)),
    "other pixels": lambda place: np.save(place / "pixels.npy", np.zeros((6, 1, 2, 2))),
    "objects": lambda place: np.save(place / "pixels.npy", np.array([{}]), allow_pickle=True),
    "a file in its place": lambda place: (shutil.rmtree(place), place.write_text("")),
    "nothing in it": lambda place: (shutil.rmtree(place), place.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_is_built_anew_and_said_so(cache, damage, capsys):
    cached("toy", ["k"], lambda: contents([block(1), block(2)]))
    place = entry(cache)
    damage(place)
    images = cached("toy", ["k"], lambda: contents([block(1), block(2)]))
    assert images.pixels[:, 0, 0, 0].tolist() == [1] * 3 + [2] * 3
    said = capsys.readouterr().err
    assert f"the image cache {place} is damaged" in said and "Traceback" not in said
    cached("toy", ["k"], refuse)


def test_its_place_is_said_when_it_is_built_and_how_to_clear_it(cache, capsys):
    for _ in range(2):
        cached("toy", ["k"], lambda: contents([block(1), block(2)]))
    said = capsys.readouterr().err
    assert said.count(str(entry(cache))) == 1
    assert "METARUN_CACHE" in said and "metarun-download --clear-cache" in said


def test_notes_come_with_the_images_whenever_they_are_loaded():
    notes = []

    def chunks():
        yield block(1)
        yield block(2)
        notes.append("3 images were enlarged")

    for _ in range(2):
        images = cached("toy", ["k"], lambda: contents(chunks())._replace(notes=notes))
        assert images.notes == ("3 images were enlarged",)


def test_the_cache_is_listed_and_cleared_and_nothing_beside_it(cache):
    assert entries() == [] and clear() == ([], [])
    for key in "ab":
        cached("toy", [key], lambda: contents([block(1), block(2)]))
    (cache / "images" / "my holidays").mkdir()
    (cache / "images" / "my holidays" / "1.jpg").touch()
    (cache / "digests").mkdir()
    listed = entries()
    assert len(listed) == 2 and all(path.is_dir() and size > 24 for path, size in listed)
    assert clear() == (listed, [])
    assert [path.name for path in (cache / "images").iterdir()] == ["my holidays"] and not (cache / "digests").exists()
    assert (cache / "images" / "my holidays" / "1.jpg").exists()


def test_what_is_being_built_is_not_removed(cache):
    def chunks():
        yield block(1)
        removed, kept = clear()
        assert removed == [] and len(kept) == 1
        yield block(2)

    cached("toy", ["k"], lambda: contents(chunks()))
    assert len(entries()) == 1


def test_an_unwritable_cache_folder_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="METARUN_CACHE"):
        cached("toy", ["k"], lambda: contents([block(1), block(2)]))


def build_slowly(notes):
    """Builds a cache: notes that it began, writes enough to have reached the file, and goes on at `go`."""

    def chunks():
        (notes / f"began-{os.getpid()}").touch()
        yield block(1, 300_000)
        while not (notes / "go").exists():
            time.sleep(0.01)
        yield block(2)

    (notes / f"ready-{os.getpid()}").touch()
    images = cached("toy", ["k"], lambda: Contents(["a", "b"], [300_000, 3], (1, 2, 2), chunks()))
    assert images.pixels.shape == (300_003, 1, 2, 2) and images.pixels[-1].unique().tolist() == [2]


def start(notes):
    process = multiprocessing.get_context("fork").Process(target=build_slowly, args=(notes,))
    process.start()
    return process


def wait_for(notes, pattern, n):
    deadline = time.monotonic() + 60
    while len(list(notes.glob(pattern))) < n:
        assert time.monotonic() < deadline, f"no {pattern}"
        time.sleep(0.01)


def test_of_two_processes_one_builds_and_both_read(tmp_path):
    two = [start(tmp_path) for _ in range(2)]
    wait_for(tmp_path, "ready-*", 2)
    wait_for(tmp_path, "began-*", 1)
    (tmp_path / "go").touch()
    for process in two:
        process.join(60)
    assert [process.exitcode for process in two] == [0, 0]
    assert len(list(tmp_path.glob("began-*"))) == 1


def test_a_build_killed_half_way_leaves_no_broken_cache(tmp_path, cache):
    process = start(tmp_path)
    wait_for(tmp_path, "began-*", 1)
    wait_for(cache / "images", "*.building-*", 1)
    process.kill()
    process.join(60)
    assert list((cache / "images").glob("*.building-*"))  # the test would prove nothing without this
    assert [p for p in (cache / "images").iterdir() if p.is_dir() and "building" not in p.name] == []
    (tmp_path / "go").touch()
    build_slowly(tmp_path)
    assert not list((cache / "images").glob("*.building-*"))
