"""Folders and zip archives, read alike."""

import zipfile

import pytest

from metarun.images.files import Folder, Zip, is_image
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


def test_a_broken_zip_is_named(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"x\.zip is not a complete zip"):
        Zip(tmp_path / "x.zip")


@pytest.mark.parametrize("name", ["a/b.png", "b.JPG", "c.jpeg"])
def test_images_are_known_by_suffix(name):
    assert is_image(name)


@pytest.mark.parametrize("name", ["a/._b.png", "__MACOSX/a/b.png", "a.csv", "a.pkl", ".DS_Store"])
def test_what_systems_leave_behind_is_no_image(name):
    assert not is_image(name)
