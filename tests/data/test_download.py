"""Downloads from a server of this test's own, which can break off, disappear and lie."""

import hashlib
import importlib
import io
import os
import pickle
import stat
import sys
import tarfile
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from metarun.data import download, miniimagenet, omniglot
from metarun.data.download import DATASETS, Remote, fetch, main
from metarun.images.cache import Contents, cached
from metarun.tasks import DataError

DATA = np.random.RandomState(0).bytes(300_000)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        server.ranges.append(self.headers.get("Range"))
        data = server.content.get(self.path)
        if data is None:
            self.send_error(404)
            return
        start = int(self.headers["Range"][6:-1]) if self.headers.get("Range") and server.resumes else 0
        if start and start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : server.stop_at])
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.requests, server.stop_at = {"/data.bin": DATA}, [], None
    server.ranges, server.resumes = [], True
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def md5(data):
    return "md5:" + hashlib.md5(data).hexdigest()


def remote(server, *paths):
    urls = tuple(server.url + path for path in paths or ("/data.bin",))
    return Remote("some/data.bin", urls, md5(DATA), None, "ask the author for data.bin")


def left(root):
    """What lies in the folder, but for the lock."""
    return sorted(path.name for path in (root / "some").iterdir() if path.suffix != ".lock")


def test_a_file_is_downloaded_and_checked(server, tmp_path):
    path = fetch(remote(server), tmp_path)
    assert path == tmp_path / "some" / "data.bin" and path.read_bytes() == DATA
    assert left(tmp_path) == ["data.bin"]


def test_what_is_there_is_checked_and_left_alone(server, tmp_path):
    fetch(remote(server), tmp_path)
    fetch(remote(server), tmp_path)
    assert len(server.requests) == 1
    (tmp_path / "some" / "data.bin").write_bytes(b"damaged")
    assert fetch(remote(server), tmp_path).read_bytes() == DATA
    assert len(server.requests) == 2


def test_a_download_that_broke_off_is_resumed(server, tmp_path):
    server.stop_at = 100_000
    with pytest.raises(DataError, match="it is resumed"):
        fetch(remote(server), tmp_path)
    assert not (tmp_path / "some" / "data.bin").exists()
    server.stop_at = None
    assert fetch(remote(server), tmp_path).read_bytes() == DATA
    began, resumed = server.ranges
    assert began is None
    assert 100_000 - download.PIECE < int(resumed.removeprefix("bytes=").removesuffix("-")) <= 100_000
    assert left(tmp_path) == ["data.bin"]


def broken_off(server, tmp_path):
    """The partial file of a download that broke off."""
    server.stop_at = 100_000
    with pytest.raises(DataError):
        fetch(remote(server), tmp_path)
    server.stop_at = None
    (partial,) = (tmp_path / "some").glob(".data.bin.part-*")
    return partial


def test_a_server_that_cannot_resume_starts_again(server, tmp_path):
    broken_off(server, tmp_path)
    server.resumes = False
    assert fetch(remote(server), tmp_path).read_bytes() == DATA


def test_a_complete_partial_file_needs_only_its_name(server, tmp_path):
    broken_off(server, tmp_path).write_bytes(DATA)
    assert fetch(remote(server), tmp_path).read_bytes() == DATA


def test_a_partial_file_that_is_too_long_is_removed(server, tmp_path):
    broken_off(server, tmp_path).write_bytes(DATA + b"and more")
    with pytest.raises(DataError, match="does not fit"):
        fetch(remote(server), tmp_path)
    assert fetch(remote(server), tmp_path).read_bytes() == DATA


def test_a_download_that_breaks_off_without_a_hash_is_noticed_too(server, tmp_path):
    server.stop_at = 100_000
    with pytest.raises(DataError, match="Run this again if the connection broke off"):
        fetch(remote(server)._replace(known_hash=None), tmp_path)
    assert not (tmp_path / "some" / "data.bin").exists()


def test_a_damaged_file_stays_until_a_better_one_is_there(server, tmp_path):
    target = fetch(remote(server), tmp_path)
    target.write_bytes(b"damaged")
    server.content["/data.bin"] = b"something else"
    with pytest.raises(DataError):
        fetch(remote(server), tmp_path)
    assert target.read_bytes() == b"damaged"


def test_others_may_read_what_was_downloaded(server, tmp_path):
    assert stat.S_IMODE(fetch(remote(server), tmp_path).stat().st_mode) == 0o644


def test_of_two_processes_one_downloads(server, tmp_path):
    """Two threads here, each with a lock object of its own, as two processes have."""
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: fetch(remote(server), tmp_path), range(2)))
    assert paths[0].read_bytes() == DATA and len(server.requests) == 1


def test_a_wrong_checksum_is_refused(server, tmp_path):
    server.content["/data.bin"] = b"something else"
    with pytest.raises(DataError, match="hash"):
        fetch(remote(server), tmp_path)
    assert left(tmp_path) == []


def test_a_source_that_is_gone_says_what_to_do_by_hand(server, tmp_path):
    with pytest.raises(DataError) as caught:
        fetch(remote(server, "/gone.bin", "/gone-too.bin"), tmp_path)
    message = str(caught.value)
    assert "data.bin could not be downloaded" in message and "404" in message
    assert f"{server.url}/gone.bin" in message and f"{server.url}/gone-too.bin" in message
    assert "ask the author for data.bin" in message and str(tmp_path / "some" / "data.bin") in message


def test_the_next_source_is_tried(server, tmp_path):
    server.content["/liar.bin"] = b"<html>"
    assert fetch(remote(server, "/gone.bin", "/liar.bin", "/data.bin"), tmp_path).read_bytes() == DATA
    assert server.requests == ["/gone.bin", "/liar.bin", "/data.bin"]


def test_without_a_hash_the_contents_decide(server, tmp_path, monkeypatch):
    monkeypatch.setattr(miniimagenet, "RAVI", {"val": 2})
    monkeypatch.setattr(miniimagenet, "PER_CLASS", 2)
    good = {"image_data": np.zeros((4, 84, 84, 3), np.uint8), "class_dict": {"a": [0, 1], "b": [2, 3]}}
    short = good | {"class_dict": {"a": [0, 1]}}
    server.content = {"/page": b"<!DOCTYPE html>", "/short": pickle.dumps(short), "/good": pickle.dumps(good)}
    val = DATASETS["miniimagenet"][1]
    for path, message in (("/page", "is refused"), ("/short", "must hold the 2 classes of 2 images")):
        with pytest.raises(DataError, match=message):
            fetch(val._replace(urls=(server.url + path,)), tmp_path)
    path = fetch(val._replace(urls=(server.url + "/good",)), tmp_path)
    assert path == tmp_path / "mini_imagenet" / "mini-imagenet-cache-validation.pkl"
    path.write_bytes(b"damaged")
    fetch(val._replace(urls=(server.url + "/good",)), tmp_path)
    assert path.read_bytes() == server.content["/good"]


def tar(files, links=()):
    """A tar.gz archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


def archived(server, data):
    server.content["/data.bin"] = data
    return remote(server)._replace(name="some/birds.tgz", known_hash=md5(data), unpack="birds")


def test_an_archive_is_unpacked_beside_itself_once(server, tmp_path):
    birds = archived(server, tar({"birds/images.txt": b"1 a/b.jpg", "attributes.txt": b"not ours"}))
    assert fetch(birds, tmp_path) == tmp_path / "some" / "birds"
    assert (tmp_path / "some" / "birds" / "images.txt").read_bytes() == b"1 a/b.jpg"
    assert left(tmp_path) == ["birds", "birds.tgz"]
    (tmp_path / "some" / "birds.tgz").unlink()  # nor is it needed again
    assert fetch(birds, tmp_path) == tmp_path / "some" / "birds" and len(server.requests) == 1


def test_an_archive_that_was_put_there_by_hand_is_unpacked(server, tmp_path):
    (tmp_path / "some").mkdir()
    birds = archived(server, b"")._replace(urls=(), known_hash=None)
    with pytest.raises(DataError, match=r"(?s)no address serves it to a program.*By hand: ask the author"):
        fetch(birds, tmp_path)
    (tmp_path / "some" / "birds.tgz").write_bytes(tar({"birds/x": b"y"}))
    assert (fetch(birds, tmp_path) / "x").read_bytes() == b"y" and server.requests == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"rubbish", "birds.tgz cannot be unpacked"),
        (tar({"birds/x": bytes(range(256)) * 99})[:-200], "birds.tgz cannot be unpacked"),
        (tar({"fish/x": b"y"}), "birds.tgz must hold the folder birds, which it does not"),
        (tar({"birds/../../../out": b"y"}), "birds.tgz cannot be unpacked"),
        (tar({"birds/x": b"y"}, [("birds/link", "/etc")]), "birds.tgz cannot be unpacked"),
    ],
)
def test_an_archive_that_is_damaged_or_leads_out_leaves_nothing(server, tmp_path, data, says):
    with pytest.raises(DataError, match=says):
        fetch(archived(server, data), tmp_path)
    assert left(tmp_path) == ["birds.tgz"] and not (tmp_path / "out").exists()


def test_tiered_imagenet_is_told_by_hand(tmp_path, capsys):
    assert main(["tiered_imagenet", "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "renmengye/few-shot-ssl-public" in said and str(tmp_path / "tiered-imagenet.tar") in said
    (tmp_path / "tiered-imagenet").mkdir()
    assert main(["tiered_imagenet", "--root", str(tmp_path)]) == 0


def test_the_command(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(DATASETS, "omniglot", (remote(server), remote(server, "/gone")._replace(name="some/x")))
    assert main(["omniglot", "--root", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'some' / 'data.bin'}: complete\n"
    assert printed.err.startswith("metarun-download: x could not be downloaded") and "Traceback" not in printed.err
    monkeypatch.setitem(DATASETS, "omniglot", (remote(server),))
    assert main(["omniglot", "--root", str(tmp_path)]) == 0


@pytest.mark.parametrize("names", [["all"], ["omniglot", "miniimagenet"], ["miniimagenet", "all", "miniimagenet"]])
def test_several_data_sets_at_once(server, tmp_path, monkeypatch, names):
    for name in DATASETS:
        monkeypatch.setitem(DATASETS, name, ())
    monkeypatch.setitem(DATASETS, "omniglot", (remote(server)._replace(name="some/a"),))
    monkeypatch.setitem(DATASETS, "miniimagenet", (remote(server)._replace(name="some/b"),))
    assert main([*names, "--root", str(tmp_path)]) == 0
    assert left(tmp_path) == ["a", "b"] and len(server.requests) == 2


def test_a_terminal_is_shown_how_far_a_download_is(server, tmp_path, monkeypatch, capsys):
    fetch(remote(server), tmp_path / "quiet")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch(remote(server), tmp_path)
    shown = capsys.readouterr().err
    assert f"downloading data.bin from {server.url}/data.bin" in shown and "100%" in shown


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    def refuse(*arguments, **keywords):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DataError, match="--root"):
        fetch(remote(server), tmp_path)


def test_a_full_disk_is_no_traceback(server, tmp_path, monkeypatch):
    def refuse(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.pooch, "retrieve", refuse)
    with pytest.raises(DataError, match="No space left on device.*--root"):
        fetch(remote(server), tmp_path)
    assert left(tmp_path) == []


def test_what_is_no_file_is_neither_read_nor_replaced(server, tmp_path):
    """A pipe would be waited for."""
    target = tmp_path / remote(server).name
    target.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(target)
    with pytest.raises(DataError, match="must be a file; got a folder, a pipe or a device"):
        fetch(remote(server), tmp_path)


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: metarun-download ")
    assert all(
        word in printed for word in (*DATASETS, "all", "--root", "METARUN_DATA", "METARUN_CACHE", "--clear-cache")
    )


def test_the_image_cache_is_listed_and_cleared(cache, capsys):
    chunk = np.zeros((3, 1, 2, 2), np.uint8)
    cached("toy", ["k"], lambda: Contents(["a"], [3], (1, 2, 2), iter([chunk])))
    (entry,) = (path for path in (cache / "images").iterdir() if path.is_dir())
    assert main(["--list-cache"]) == 0 and entry.is_dir()
    assert f"{entry}: 0.0 MB" in capsys.readouterr().out
    assert main(["--clear-cache"]) == 0 and not entry.exists()
    assert f"removed {entry}: 0.0 MB" in capsys.readouterr().out
    assert main(["--clear-cache"]) == 0
    assert capsys.readouterr().out == f"{cache / 'images'}: 0.0 MB removed\n"


@pytest.mark.parametrize("arguments", [[], ["omniglott"], ["omniglot", "--rot", "x"]])
def test_a_wrong_command_exits_with_2_and_says_what_there_is(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "metarun-download: error: " in capsys.readouterr().err


def test_it_is_installed_as_a_command():
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["metarun-download"].partition(":")
    assert getattr(importlib.import_module(module), name) is main


def test_what_is_downloaded_is_where_it_is_looked_for():
    names = {remote.name for remotes in DATASETS.values() for remote in remotes}
    assert {f"omniglot/{half}.zip" for half in omniglot.HALVES} <= names
    assert {f"mini_imagenet/mini-imagenet-cache-{split}.pkl" for split in ("train", "validation", "test")} <= names
    assert {"cifar-100-python.tar.gz", "CUB_200_2011.tgz", "tiered-imagenet.tar"} <= names
    assert {f"omniglot/splits/vinyals/{split}.txt" for split in ("train", "val", "test")} <= names


def test_addresses_and_hashes_are_torchvisions_and_learn2learns():
    torchvision = pytest.importorskip("torchvision.datasets.omniglot").Omniglot
    for remote in DATASETS["omniglot"][:2]:
        half = Path(remote.name).stem
        assert remote.known_hash == "md5:" + torchvision.zips_md5[half]
        assert remote.urls == (f"{torchvision.download_url_prefix}/{half}.zip",)
    cifar = pytest.importorskip("torchvision.datasets").CIFAR100
    (archive,) = {remote for name in ("cifar_fs", "fc100") for remote in DATASETS[name]}
    assert (archive.name, archive.unpack) == (cifar.filename, cifar.base_folder)
    assert archive.urls == (cifar.url,) and archive.known_hash == f"md5:{cifar.tgz_md5}"
    theirs = Path(pytest.importorskip("learn2learn").__file__).parent / "vision" / "datasets" / "mini_imagenet.py"
    source = theirs.read_text()
    assert all(url in source for remote in DATASETS["miniimagenet"] for url in remote.urls)


def test_class_lists_are_downloaded_once(server, tmp_path, monkeypatch):
    data = b"Alpha/character01/rot000\n"
    server.content["/test.txt"] = data
    listed = download.VINYALS["test"]._replace(urls=(server.url + "/test.txt",), known_hash=md5(data))
    monkeypatch.setitem(download.VINYALS, "test", listed)
    for _ in range(2):
        assert omniglot.vinyals(tmp_path, "test") == [("Alpha/character01", 0)]
    assert len(server.requests) == 1


@pytest.mark.data
def test_the_real_class_lists_have_the_hashes_stated(real_root):
    for split, remote in download.VINYALS.items():
        path = real_root / "omniglot" / "splits" / "vinyals" / f"{split}.txt"
        assert remote.known_hash == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
