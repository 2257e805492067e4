import io
import multiprocessing
import os
import pickle
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.images import store as images
from metarun.images.files import Folder, Zip
from metarun.images.pickles import load_arrays
from metarun.images.store import Contents, cached, decoded, image_decoder
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
    for found in (first, second):
        assert found.pixels.shape == (6, 1, 2, 2) and found.pixels.dtype == torch.uint8
        assert found.pixels[:3].unique().tolist() == [1] and found.pixels[3:].unique().tolist() == [2]
        assert found.names == ("c0", "c1") and found.counts.tolist() == [3, 3] and found.starts.tolist() == [0, 3]


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
    found = cached("toy", ["k"], lambda: Contents(["a", "b"], [300_000, 3], (1, 2, 2), chunks()))
    assert found.pixels.shape == (300_003, 1, 2, 2) and found.pixels[-1].unique().tolist() == [2]


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


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_folders_and_zips_give_names_bytes_and_a_fingerprint_that_changes(tmp_path, kind):
    path = tmp_path / "source"
    written = {"a/1.png": b"one", "a/2.png": b"two", "b/c/3.png": b"three"}

    def write():
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in written.items():
                    archive.writestr(name, data)
            return Zip(path)
        for name, data in written.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return Folder(path)

    files = write()
    assert files.names() == sorted(written)
    assert {name: files.read(name) for name in files.names()} == written
    before = files.fingerprint()
    assert before == files.fingerprint()
    written["a/1.png"] = b"changed"
    assert write().fingerprint() != before


def test_a_broken_zip_is_named(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"x\.zip is no complete zip"):
        Zip(tmp_path / "x.zip")


def test_images_come_in_order_whatever_thread_decodes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "CHUNK", 3)
    for i in range(50):
        (tmp_path / f"{i:02d}.png").write_bytes(png(np.full((4, 4), i, np.uint8)))
    files = Folder(tmp_path)
    pixels = np.concatenate(list(decoded(files, files.names(), image_decoder(1, 4, 4))))
    assert pixels[:, 0, 0, 0].tolist() == list(range(50))


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png in .* cannot be read as an image"):
        list(decoded(Folder(tmp_path), ["bad.png"], image_decoder(1, 4, 4)))


def test_one_bit_images_are_resized_with_antialiasing():
    checks = (np.indices((105, 105)).sum(0) % 2).astype(bool)
    pixels = image_decoder(1, 28, 28)(png(checks))
    # Nearest neighbour would give black and white only; averaging gives grey.
    assert pixels.shape == (1, 28, 28) and pixels.dtype == np.uint8
    assert 100 < pixels[0, 5:-5, 5:-5].mean() < 155 and pixels[0, 5:-5, 5:-5].std() < 30


def test_colour_keeps_its_channels():
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 200
    assert image_decoder(3, 4, 4)(png(red))[:, 0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize("name", ["a/b.png", "b.JPG", "c.jpeg"])
def test_images_are_known_by_suffix(name):
    assert images.is_image(name)


@pytest.mark.parametrize("name", ["a/._b.png", "__MACOSX/a/b.png", "a.csv", "a.pkl", ".DS_Store"])
def test_what_systems_leave_behind_is_no_image(name):
    assert not images.is_image(name)


def test_roots(monkeypatch, tmp_path):
    monkeypatch.delenv("METARUN_DATA", raising=False)
    assert images.data_roots(tmp_path) == [tmp_path]
    assert images.data_roots(None)[0] == Path("data") and len(images.data_roots(None)) == 2
    monkeypatch.setenv("METARUN_DATA", str(tmp_path / "named"))
    assert images.data_roots(None) == [tmp_path / "named"]
    assert images.data_roots(tmp_path) == [tmp_path]


# --------------------------------------------------------------------------------------------------- pickles


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_containers_are_read(tmp_path, protocol):
    data = {"image_data": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "class_dict": {"n01": [0, 1]}}
    data |= {"scalar": np.int64(3), "set": {1}, "bytes": b"\x00\xff", "nested": ((1.5, None), [True])}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(data, protocol))
    found = load_arrays(tmp_path / "x.pkl")
    assert np.array_equal(found.pop("image_data"), data.pop("image_data")) and found == data


def test_pickles_of_numpy_1_are_read(tmp_path):
    old = pickle.dumps(np.arange(5), 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core" in old
    (tmp_path / "x.pkl").write_bytes(old)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_arrays(tmp_path / "x.pkl").tolist() == [0, 1, 2, 3, 4]


class Payload:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("hidden", ["plain", "in an object array"])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, protocol, hidden):
    mark = tmp_path / "it ran"
    payload = Payload(os.system, f"touch '{mark}'")
    data = payload if hidden == "plain" else np.array([payload, None], dtype=object)
    raw = pickle.dumps({"image_data": data}, protocol)
    (tmp_path / "x.pkl").write_bytes(raw)
    with pytest.raises(DataError, match=r"x\.pkl is refused: it asks for posix\.system"):
        load_arrays(tmp_path / "x.pkl")
    assert not mark.exists()
    pickle.loads(raw)  # the payload is a real one
    assert mark.exists()


@pytest.mark.parametrize("call", [eval, exec, getattr, __import__, np.load, np.fromfile])
def test_other_names_are_refused(tmp_path, call):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Payload(call, "0")))
    with pytest.raises(DataError, match="it asks for"):
        load_arrays(tmp_path / "x.pkl")


@pytest.mark.parametrize("damage", [b"", b"<!DOCTYPE html>", pickle.dumps(np.arange(1000))[:400]])
def test_a_damaged_pickle_is_named(tmp_path, damage):
    (tmp_path / "x.pkl").write_bytes(damage)
    with pytest.raises(DataError, match=r"x\.pkl is refused"):
        load_arrays(tmp_path / "x.pkl")
