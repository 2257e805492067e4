"""Folders and zip archives, read alike."""

import os
import random
import zipfile
from pathlib import Path

import pytest

from metarun.images.files import Folder, Zip, is_image, open_regular, read_text
from metarun.tasks import DataError


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
    before = files.fingerprint(files.names())
    assert before == files.fingerprint(files.names())
    written["a/1.png"] = b"changed"
    again = write()
    assert again.fingerprint(again.names()) != before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"rubbish", r"x\.zip is not a complete zip archive"),
        (b"", r"x\.zip is an empty file: download it again"),
        (b"\n<!DOCTYPE html><html>not found</html>", r"x\.zip is a web page: download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"x\.zip is a pointer of Git LFS"),
    ],
)
def test_a_broken_zip_is_named(tmp_path, content, says):
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(DataError, match=says):
        Zip(tmp_path / "x.zip")


def zipped(path, content=b"one" * 1000, **how):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", content, **how)
    return path


def test_members_that_cannot_be_read_are_named(tmp_path):
    """Encrypted, damaged, packed by an unknown method: each in one line that names member and archive."""
    path = zipped(tmp_path / "x.zip")
    raw = path.read_bytes()
    head, directory = raw.index(b"PK\3\4"), raw.index(b"PK\1\2")

    def changed(at, value):
        data = bytearray(raw)
        data[at : at + len(value)] = value
        path.write_bytes(data)
        return Zip(path)

    with pytest.raises(DataError, match=r"a/1\.png in .*x\.zip is encrypted"):
        changed(directory + 8, b"\1\0").read("a/1.png")
    with pytest.raises(DataError, match=r"a/1\.png in .*x\.zip is damaged, or packed in a way .*Bad CRC"):
        changed(directory + 16, b"\0\0\0\0").read("a/1.png")
    with pytest.raises(DataError, match=r"a/1\.png in .*x\.zip is damaged, or packed"):
        changed(directory + 10, b"\x63\0").read("a/1.png")
    with pytest.raises(DataError, match=r"a/1\.png in .*x\.zip is damaged"):
        changed(head + 37, b"\xff" * 8).read("a/1.png")


def test_cut_and_changed_zips_raise_data_errors(tmp_path):
    """200 kinds of damage. Seed 0."""
    raw, rng = zipped(tmp_path / "x.zip").read_bytes(), random.Random(0)
    for _ in range(200):
        data = bytearray(raw)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "x.zip").write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
        try:
            files = Zip(tmp_path / "x.zip")
            [files.read(name) for name in files.names()]
        except DataError:
            pass


def test_no_more_is_read_of_a_file_than_an_image_takes(tmp_path, monkeypatch):
    """A zip's member of 3 GB, in a few kilobytes: here a smaller limit."""
    monkeypatch.setattr("metarun.images.files.MAX_BYTES", 2000)
    with pytest.raises(DataError, match=r"a/1\.png in .* must have at most 2,000 bytes"):
        Zip(zipped(tmp_path / "x.zip", bytes(3000))).read("a/1.png")
    (tmp_path / "2.png").write_bytes(bytes(3000))
    with pytest.raises(DataError, match=r"2\.png in .* must have at most 2,000 bytes"):
        Folder(tmp_path).read("2.png")
    path = zipped(tmp_path / "y.zip", bytes(3000))
    raw = bytearray(path.read_bytes())
    at = raw.index(b"PK\1\2") + 24
    raw[at : at + 4] = (3 * 10**9).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"at most 2,000 bytes; got 3,000,000,000"):
        Zip(path).read("a/1.png")


def test_only_regular_files_are_opened(tmp_path):
    """A pipe would be waited for without an end; a device has none."""
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png must be a regular file"):
        Folder(tmp_path).read("a.png")
    with pytest.raises(DataError, match="must be a regular file"):
        Zip(tmp_path / "a.png")
    with pytest.raises(DataError, match="/dev/zero must be a regular file"):
        open_regular(Path("/dev/zero"))
    (tmp_path / "b").mkdir()
    for name in ("b", "none"):
        with pytest.raises(DataError, match=rf"{name} cannot be read"):
            open_regular(tmp_path / name)
    assert Folder(tmp_path).listing() == ([], ["b"], ["a.png"])


def test_links(tmp_path):
    """One that leads nowhere is refused by name, one that leads back is not followed for ever."""
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "1.png").touch()
    (tmp_path / "data" / "b").symlink_to(tmp_path / "data" / "a")
    (tmp_path / "data" / "a" / "back").symlink_to(tmp_path / "data")
    assert Folder(tmp_path / "data").names() == ["a/1.png", "b/1.png"]
    (tmp_path / "data" / ".hidden").symlink_to("nowhere")
    (tmp_path / "data" / "a" / "2.png").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"/2\.png is a link to a file that does not exist"):
        Folder(tmp_path / "data").names()


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"the folder .* cannot be read \(Permission denied\)"):
        Folder(tmp_path).names()


def test_text_is_read_or_refused(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(b"\xef\xbb\xbffilename,label\n")
    assert read_text(path) == "filename,label\n"
    for content, says in ((b"<html>", "is a web page"), (b"\xff\xfe\0", "must be text in UTF-8")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"list\.csv {says}"):
            read_text(path)


@pytest.mark.parametrize("name", ["a/b.png", "b.JPG", "c.jpeg", "d.JFIF", "e.jpe", "f.tif", "g.Webp", "h.pnm"])
def test_images_are_known_by_suffix(name):
    assert is_image(name)


@pytest.mark.parametrize(
    "name",
    [
        *("a/._b.png", "__MACOSX/a/b.png", "a.csv", "a.pkl", ".DS_Store", ".ipynb_checkpoints/a/b.png", "a/.x/b.png"),
        *("@eaDir/a.png", "a/Thumbs.db", "$RECYCLE.BIN/a.png", "a.heic", "a.eps", "a.psd"),
    ],
)
def test_what_systems_leave_behind_is_no_image(name):
    assert not is_image(name)
