"""tiered-ImageNet: the same images out of Ren et al.'s pickles and out of folders."""

import numpy as np
import pytest
from few_shot_files import pixels, png, python2_pickle

from metarun.data import tiered_imagenet
from metarun.data.tiered_imagenet import TieredImageNet
from metarun.tasks import DataError

LITTLE = {"train": ("n01", "n02", "n03"), "val": ("n04", "n05"), "test": ("n06", "n07")}


@pytest.fixture
def little(monkeypatch):
    monkeypatch.setattr(tiered_imagenet, "SPLITS", LITTLE)
    monkeypatch.setattr(tiered_imagenet, "IMAGES", {split: 3 * len(names) for split, names in LITTLE.items()})


def opened(root, sizes, size=84):
    return TieredImageNet(root=root, size=size, partition="ren", **sizes)


def write_pickles(root, names=LITTLE):
    """PNG files as OpenCV's arrays of bytes, `[n, 1]`, a class after the other in turn."""
    root.mkdir(parents=True, exist_ok=True)
    for split, classes in names.items():
        in_turn = zip(*(pixels(name, 84) for name in classes), strict=True)
        images = [png(image) for of_each in in_turn for image in of_each]
        arrays = [np.frombuffer(image, np.uint8).reshape(-1, 1) for image in images]
        labels = {
            "label_specific": np.array([i % len(classes) for i in range(len(images))], np.int32),
            "label_general": np.zeros(len(images), np.int32),
            "label_specific_str": list(classes),
            "label_general_str": ["animal"],
        }
        (root / f"{split}_images_png.pkl").write_bytes(python2_pickle(arrays))
        (root / f"{split}_labels.pkl").write_bytes(python2_pickle(labels))


def write_classes(root, classes):
    for name in classes:
        (root / name).mkdir(parents=True)
        for i, image in enumerate(pixels(name, 84)):
            (root / name / f"{name}_{i}.png").write_bytes(png(image))


def write_splits(root):
    for split, classes in LITTLE.items():
        write_classes(root / split, classes)


def write_all(root):
    """As ImageNet's own folder: classes of all splits, and others."""
    write_classes(root, ["n00", *(name for classes in LITTLE.values() for name in classes), "n99"])


def test_the_images_are_as_many_as_the_papers():
    assert tiered_imagenet.IMAGES == {"train": 448_695, "val": 124_261, "test": 206_209}
    assert sum(tiered_imagenet.IMAGES.values()) == 779_165


@pytest.mark.parametrize("base", ["", "tiered-imagenet"])
@pytest.mark.parametrize("write", [write_pickles, write_splits, write_all])
def test_every_form_gives_the_same(little, tmp_path, sizes, write, base):
    write(tmp_path / base)
    data = opened(tmp_path, sizes)
    data.prepare()
    for split, classes in LITTLE.items():
        images = data.load(split)
        assert images.names == classes
        wanted = np.concatenate([pixels(name, 84) for name in classes]).transpose(0, 3, 1, 2)
        assert np.array_equal(images.pixels.numpy(), wanted)


def test_classes_of_the_same_name_are_told_apart(little, tmp_path, sizes):
    write_pickles(tmp_path, {"val": ("crane", "crane")})
    assert opened(tmp_path, sizes).load("val").names == ("crane (0)", "crane (1)")


def test_another_size_is_stretched(little, tmp_path, sizes):
    write_pickles(tmp_path)
    data = opened(tmp_path, sizes, size=20)
    assert data.load("val").pixels.shape == (6, 3, 20, 20) and data.in_shape() == (3, 20, 20)


def test_a_folder_that_lacks_classes_is_refused(little, tmp_path, sizes):
    write_classes(tmp_path / "val", ["n04"])
    with pytest.raises(DataError, match="must hold the 2 classes of .*'val'; 1 are missing, such as n05"):
        opened(tmp_path, sizes).load("val")


def test_a_part_of_the_images_is_refused(little, tmp_path, sizes):
    write_splits(tmp_path)
    (tmp_path / "val" / "n05" / "n05_2.png").unlink()
    with pytest.raises(DataError, match="must hold the 2 classes and 6 images .*; got 2 classes and 5 images"):
        opened(tmp_path, sizes).load("val")


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        ([1, 2], None, "must be a list of 6 PNG files as arrays of uint8; got 2 items"),
        ({}, None, "must be a list of 6 PNG files as arrays of uint8; got dict"),
        (None, {"label_specific": [0]}, "must be a dict of label_specific and label_specific_str"),
        (None, {"label_specific": [0, 5], "label_specific_str": ["a", "b"]}, "must hold the numbers 0 to 1"),
        (None, [], "must be a dict of label_specific and label_specific_str"),
    ],
)
def test_a_pickle_of_something_else_is_refused(little, tmp_path, sizes, images, labels, says):
    write_pickles(tmp_path)
    for name, value in (("val_images_png.pkl", images), ("val_labels.pkl", labels)):
        if value is not None:
            (tmp_path / name).write_bytes(python2_pickle(value))
    with pytest.raises(DataError, match=says):
        opened(tmp_path, sizes).load("val")


def test_a_damaged_png_is_named_by_its_number(little, tmp_path, sizes):
    write_pickles(tmp_path)
    rubbish = [np.zeros((9, 1), np.uint8) for _ in range(6)]
    (tmp_path / "val_images_png.pkl").write_bytes(python2_pickle(rubbish))
    with pytest.raises(DataError, match=r"0 in .*val_images_png\.pkl cannot be read as an image"):
        opened(tmp_path, sizes).load("val")


def test_what_is_missing_is_named_with_the_command(little, tmp_path, sizes):
    with pytest.raises(DataError, match="tiered-ImageNet, split 'train', not found") as caught:
        opened(tmp_path, sizes).load("train")
    for name in ("train_images_png.pkl", "tiered_imagenet/train/CLASS/IMAGE", "CLASS/IMAGE"):
        assert str(tmp_path / name) in str(caught.value)
    assert "metarun-download tiered_imagenet --root" in str(caught.value)
