"""The cache: built once, whole or not at all, whatever happens to the process that builds."""

import multiprocessing
import os
import time
import warnings

import numpy as np
import pytest
import torch

from metarun.images.cache import Contents, cached
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
