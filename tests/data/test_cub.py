"""CUB-200-2011: the paper's split of the species, and files as the archive has them."""

import numpy as np
import pytest
from few_shot_files import BIRDS, write_cub
from PIL import Image

from metarun.data import cub
from metarun.data.cub import Cub, chen, listed_images
from metarun.tasks import DataError


@pytest.fixture
def little(monkeypatch):
    monkeypatch.setattr(cub, "CLASSES", 8)
    monkeypatch.setattr(cub, "IMAGES", 8 * 4 + 8)


def opened(root, sizes, size=84):
    return Cub(root=root, size=size, partition="chen", **sizes)


def test_the_split_is_the_papers():
    """The code's numbers are those of the folders, less one: its train is even, val 1 and test 3 modulo 4."""
    classes = {f"{i:03d}.Bird": [] for i in range(1, 201)}
    splits = {split: list(chen(classes, split)) for split in ("train", "val", "test")}
    assert {split: len(names) for split, names in splits.items()} == {"train": 100, "val": 50, "test": 50}
    assert splits["train"][:3] == ["001.Bird", "003.Bird", "005.Bird"]
    assert splits["val"][:3] == ["002.Bird", "006.Bird", "010.Bird"]
    assert splits["test"][:3] == ["004.Bird", "008.Bird", "012.Bird"]
    assert cub.CLASSES == 200 and cub.IMAGES == 11_788


@pytest.mark.parametrize("base", ["", "CUB_200_2011", "cub/CUB_200_2011", "cubirds200/CUB_200_2011"])
def test_the_archives_folder_is_read(little, tmp_path, sizes, base):
    write_cub(tmp_path / base)
    data = opened(tmp_path, sizes, size=20)
    data.prepare()
    assert data.in_shape() == (3, 20, 20)
    assert data.classes("train") == tuple(BIRDS[::2])
    assert data.classes("val") == (BIRDS[1], BIRDS[5]) and data.classes("test") == (BIRDS[3], BIRDS[7])
    images = data.load("val")
    assert images.counts.tolist() == [6, 6]
    assert np.allclose(images.pixels.float().mean((1, 2, 3)), [30] * 6 + [150] * 6, atol=3)


def test_the_list_decides_what_is_read(little, tmp_path, sizes):
    write_cub(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / BIRDS[1] / "more.jpg")
    assert opened(tmp_path, sizes).load("val").counts.tolist() == [6, 6]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("41 ../secret.jpg", r"line 41, must be a number and CLASS/IMAGE; got '41 \.\./secret\.jpg'"),
        ("41 a/b/c.jpg", "line 41, must be"),
        ("41", "line 41, must be"),
        ("41 a/b.txt", "line 41, must be"),
        ("41 a/b.jpg", "must list the 8 classes and 40 images of CUB-200-2011; got 9 classes and 41 images"),
    ],
)
def test_a_list_of_something_else_is_refused(little, tmp_path, line, says):
    write_cub(tmp_path)
    with open(tmp_path / "images.txt", "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match=says):
        listed_images(tmp_path / "images.txt")


def test_what_is_missing_is_named_with_the_command(little, tmp_path, sizes):
    (tmp_path / "images.txt").write_text("1 a/b.jpg\n")  # without the folder images
    with pytest.raises(DataError, match=r"images\.txt and the folder images beside it, not found") as caught:
        opened(tmp_path, sizes).load("test")
    assert str(tmp_path / "CUB_200_2011" / "images.txt") in str(caught.value)
    assert "metarun-download cub --root" in str(caught.value)


def test_an_image_that_the_list_names_and_is_not_there_is_named(little, tmp_path, sizes):
    write_cub(tmp_path)
    file = next((tmp_path / "images" / BIRDS[3]).iterdir())
    file.unlink()
    with pytest.raises(DataError, match=rf"{file.name} cannot be read \(No such file"):
        opened(tmp_path, sizes).load("test")
