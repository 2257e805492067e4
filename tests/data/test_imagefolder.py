"""Images in folders: classes, sizes and counts as they lie there, and errors that name the file."""

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.data.imagefolder import ImageFolder
from metarun.tasks import DataError

COUNTS = {"cat": 4, "dog": 9, "owl": 5}
COLOURS = {"cat": (250, 0, 0), "dog": (0, 250, 0), "owl": (0, 0, 250)}


@pytest.fixture
def root(tmp_path):
    for split in ("train", "val", "test"):
        for name, count in COUNTS.items():
            folder = tmp_path / "mine" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                suffix = ("png", "JPG", "webp", "bmp")[i % 4]
                Image.new("RGB", (30 + i, 20), COLOURS[name]).save(folder / f"{i}.{suffix}")
            (folder / "notes.txt").write_text("no image")
    return tmp_path / "mine"


def open_folder(root, sizes, size=12, channels=3):
    return ImageFolder(root=root, size=size, channels=channels, partition="folders", mean=None, std=None, **sizes)


def test_folders_are_classes(root, sizes):
    data = open_folder(root, sizes)
    data.prepare()
    assert data.in_shape() == (3, 12, 12)
    assert data.classes("train") == ("cat", "dog", "owl")
    images = data.load("train")
    assert images.counts.tolist() == [4, 9, 5] and images.pixels.shape == (18, 3, 12, 12)
    batch = data.sample("train", "batches", 20, torch.Generator())
    # Red, green and blue are classes 0, 1 and 2: every image carries its class.
    assert torch.equal(batch.x.mean((-1, -2)).argmax(-1), batch.y)
    task = data.sample("val", "episodes", 50, torch.Generator())
    colour = task.query.x.mean((-1, -2)).argmax(-1).view(50, 2, 2)
    assert torch.equal(colour[..., 0], colour[..., 1]) and (colour[:, 0, 0] != colour[:, 1, 0]).all()


def test_grey_and_another_size(root, sizes):
    data = open_folder(root, sizes, size=7, channels=1)
    assert data.sample("test", "episodes", 2, torch.Generator()).support.x.shape == (2, 2, 1, 7, 7)
    assert data.in_shape() == (1, 7, 7)


def test_a_new_image_is_seen(root, sizes):
    assert len(open_folder(root, sizes).load("val").pixels) == 18
    Image.new("RGB", (9, 9)).save(root / "val" / "cat" / "new.png")
    assert open_folder(root, sizes).load("val").counts.tolist() == [5, 9, 5]


def test_classes_with_too_few_images_are_named(root, sizes):
    with pytest.raises(
        DataError, match=r"the images of each class; got 1 \+ 5 = 6, .*split 'val' .*cat \(4\), owl \(5\)"
    ):
        open_folder(root, sizes | {"queries": 5}).classes("val")


def test_an_image_that_cannot_be_read_is_named(root, sizes):
    (root / "val" / "dog" / "broken.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"dog/broken\.png in .*val cannot be read"):
        open_folder(root, sizes).classes("val")


def test_missing_folders_are_named(tmp_path, root, sizes):
    with pytest.raises(DataError, match="split 'train' not found") as caught:
        open_folder(tmp_path / "elsewhere", sizes).classes("train")
    assert str(tmp_path / "elsewhere" / "train") in str(caught.value)
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="no image of the form CLASS/IMAGE"):
        open_folder(tmp_path / "empty", sizes).classes("train")


@pytest.mark.parametrize("size", [0, -3, 8.5, "84"])
def test_a_bad_size_is_named(root, sizes, size):
    with pytest.raises(ValueError, match=f"data.size must be an integer of at least 1; got {size!r}"):
        open_folder(root, sizes, size=size)


def test_bad_channels_are_named(root, sizes):
    with pytest.raises(ValueError, match="data.channels must be 1 .* or 3 .*; got 2"):
        open_folder(root, sizes, channels=2)


def test_a_folder_that_cannot_be_written_is_enough(root, sizes):
    before = sorted(root.rglob("*"))
    open_folder(root, sizes).prepare()
    assert sorted(root.rglob("*")) == before


def test_pixels_are_those_of_the_file(tmp_path, sizes):
    pixels = np.random.RandomState(0).randint(256, size=(6, 5, 5, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        folder = tmp_path / "test" / f"class{i // 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    ours = open_folder(tmp_path, sizes, size=5).load("test").pixels
    assert np.array_equal(ours.numpy(), pixels.transpose(0, 3, 1, 2))
