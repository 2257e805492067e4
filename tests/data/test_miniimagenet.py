"""mini-ImageNet: every layout reads alike, and pickles are read without running them."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.data import miniimagenet
from metarun.data.miniimagenet import MiniImageNet
from metarun.images.decoding import by_class
from metarun.images.files import Zip
from metarun.images.pixels import ImageDecoder
from metarun.tasks import DataError

SPLITS = ("train", "val", "test")
RAVI = {"train": 4, "val": 3, "test": 2}
MEAN, STD = [0.471, 0.4503, 0.4053], [0.2717, 0.2648, 0.2785]


@pytest.fixture
def little(monkeypatch):
    monkeypatch.setattr(miniimagenet, "RAVI", RAVI)
    monkeypatch.setattr(miniimagenet, "PER_CLASS", 3)


def arrays(split):
    """Class -> [3, 84, 84, 3]."""
    random = np.random.RandomState(SPLITS.index(split))
    return {f"n{i}{split}": random.randint(256, size=(3, 84, 84, 3), dtype=np.uint8) for i in range(RAVI[split])}


def files(split):
    images_by_name = {}
    for name, images in arrays(split).items():
        for i, image in enumerate(images):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "png")  # lossless, so that all formats must agree
            images_by_name[f"{split}/{name}/{i}.png"] = buffer.getvalue()
    return images_by_name


def write_folders(root, split):
    for name, data in files(split).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def write_zip(root, split):
    root.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(root / f"mini_imagenet_{split}.zip", "w") as archive:
        archive.writestr(f"{split}.csv", "filename,label\n")
        for name, data in files(split).items():
            archive.writestr(name, data)


def learn2learn_dict(split):
    """As learn2learn reads it; images of the classes interleaved, to see that class_dict is used."""
    classes = arrays(split)
    data = np.stack(list(classes.values()), 1).reshape(-1, 84, 84, 3)
    index = {name: list(range(i, len(data), len(classes))) for i, name in enumerate(classes)}
    return {"image_data": data, "class_dict": index}


def write_pickle(root, split):
    root.mkdir(parents=True, exist_ok=True)
    name = {"train": "train", "val": "validation", "test": "test"}[split]
    (root / f"mini-imagenet-cache-{name}.pkl").write_bytes(pickle.dumps(learn2learn_dict(split), 2))


def write_common_pickle(root, split):
    """Named as most repositories name it."""
    root.mkdir(parents=True, exist_ok=True)
    (root / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(learn2learn_dict(split), 2))


def write_ravis_lists(root, split):
    """images/ without folders of classes, and the list of a split beside it; its rows in no order."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for name, data in files(split).items():
        _, label, image = name.split("/")
        (root / "images" / f"{label}{image}").write_bytes(data)
        rows.append(f"{label}{image},{label}")
    (root / f"{split}.csv").write_text("\n".join(["filename,label", *rows[::-1]]) + "\n")


def open_mini(root, sizes, mean=None, std=None):
    return MiniImageNet(root=root, partition="ravi", mean=mean, std=std, **sizes)


@pytest.mark.parametrize("base", ["", "mini_imagenet"])
@pytest.mark.parametrize("write", [write_folders, write_zip, write_pickle, write_common_pickle, write_ravis_lists])
def test_every_layout_gives_the_same(little, tmp_path, sizes, write, base):
    for split in SPLITS:
        write(tmp_path / base, split)
    data = open_mini(tmp_path, sizes)
    data.prepare()
    for split in SPLITS:
        images = data.load(split)
        assert images.names == tuple(arrays(split))
        wanted = np.concatenate(list(arrays(split).values())).transpose(0, 3, 1, 2)
        assert np.array_equal(images.pixels.numpy(), wanted)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,class\na.png,b\n", r"val\.csv must have the columns filename,label; got name,class"),
        ("", r"val\.csv is an empty file"),
        ("<html>", r"val\.csv is a web page"),
        (
            "filename,label\n../secret.png,n0\n",
            r"val\.csv, line 2, must be the name of a file and a label; got \.\./sec",
        ),
        ("filename,label\na.png\n", r"val\.csv, line 2, must be the name of a file and a label; got a\.png,None"),
        ("filename,label\na.png,b\n", r"val\.csv must hold the 3 classes of 3 images .*; got 1 classes of 1 to 1"),
    ],
)
def test_a_list_of_something_else_is_refused(little, tmp_path, sizes, text, says):
    write_ravis_lists(tmp_path, "val")
    (tmp_path / "val.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        open_mini(tmp_path, sizes).classes("val")


def test_an_image_that_a_list_names_and_is_not_there_is_named(little, tmp_path, sizes):
    write_ravis_lists(tmp_path, "val")
    (tmp_path / "images" / "n1val2.png").unlink()
    with pytest.raises(DataError, match=r"images/n1val2\.png cannot be read \(No such file"):
        open_mini(tmp_path, sizes).classes("val")


def test_a_web_page_under_the_name_of_a_pickle_is_told_as_such(little, tmp_path, sizes):
    (tmp_path / "mini-imagenet-cache-test.pkl").write_text("<!DOCTYPE html><html>Too many requests</html>")
    with pytest.raises(
        DataError, match=r"cache-test\.pkl is refused: it is a web page, not a pickle\. Download it again"
    ):
        open_mini(tmp_path, sizes).classes("test")


@pytest.mark.parametrize("write", [write_zip, write_common_pickle])
def test_a_copy_elsewhere_is_not_decoded_again(little, tmp_path, sizes, write, cache):
    for place in ("here", "there"):
        write(tmp_path / place, "val")
        open_mini(tmp_path / place, sizes).load("val")
    assert len([path for path in (cache / "images").iterdir() if path.is_dir()]) == 1


def test_learn2learn_reads_the_pickles_of_this_test(little, tmp_path):
    dataset = pytest.importorskip("learn2learn.vision.datasets")
    write_pickle(tmp_path, "val")
    theirs = dataset.MiniImagenet(root=str(tmp_path), mode="validation")
    x, y = theirs[4]
    assert x.shape == (3, 84, 84) and y == 1
    assert np.array_equal(x.numpy().transpose(1, 2, 0), list(arrays("val").values())[1][1])


def test_only_the_split_asked_for_is_read(little, tmp_path, sizes):
    write_zip(tmp_path, "val")
    data = open_mini(tmp_path, sizes)
    assert len(data.classes("val")) == 3
    with pytest.raises(DataError, match="mini-ImageNet, split 'train', not found") as caught:
        data.classes("train")
    for name in ("mini-imagenet-cache-train.pkl", "mini_imagenet/mini_imagenet_train.zip", "train"):
        assert str(tmp_path / name) in str(caught.value)
    assert "metarun-download miniimagenet --root" in str(caught.value)


def test_normalised_with_the_training_statistics(little, tmp_path, sizes):
    for split in SPLITS:
        write_pickle(tmp_path, split)
    plain, normalised = open_mini(tmp_path, sizes), open_mini(tmp_path, sizes, MEAN, STD)
    x, z = (d.sample("val", "episodes", 4, torch.Generator()).query.x for d in (plain, normalised))
    assert x.min() >= 0 and x.max() <= 1
    torch.testing.assert_close(z, (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))


def test_incomplete_data_is_refused(little, tmp_path, sizes, monkeypatch):
    write_zip(tmp_path, "val")
    monkeypatch.setattr(miniimagenet, "PER_CLASS", 600)
    with pytest.raises(
        DataError, match="must hold the 3 classes of 600 images of mini-ImageNet's split 'val'; got 3 classes of 3 to 3"
    ):
        open_mini(tmp_path, sizes).classes("val")


@pytest.mark.parametrize(
    "data, message",
    [
        ([1, 2], "must be a dict of image_data and class_dict; got list"),
        ({"image_data": np.zeros((2, 84, 84, 3), np.uint8)}, "must be a dict of image_data and class_dict; got dict"),
        (
            {"image_data": np.zeros((2, 32, 32, 3), np.uint8), "class_dict": {"a": [0, 1]}},
            r"\[n, 84, 84, 3\]",
        ),
        ({"image_data": np.zeros((2, 84, 84, 3)), "class_dict": {"a": [0, 1]}}, "of uint8; got .*float64"),
        (
            {"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {"a": [0, 2]}},
            "class_dict must name images from 0 to 1; got 0 to 2",
        ),
        ({"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {}}, "class_dict"),
    ],
)
def test_a_pickle_of_something_else_is_refused(little, tmp_path, sizes, data, message):
    (tmp_path / "mini-imagenet-cache-validation.pkl").write_bytes(pickle.dumps(data))
    with pytest.raises(DataError, match=message):
        open_mini(tmp_path, sizes).classes("val")


class Payload:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_malicious_pickle_is_refused_and_not_run(little, tmp_path, sizes):
    mark = tmp_path / "it ran"
    data = learn2learn_dict("val") | {"extra": Payload(f"touch '{mark}'")}
    (tmp_path / "mini-imagenet-cache-validation.pkl").write_bytes(pickle.dumps(data))
    with pytest.raises(DataError, match="it asks for posix.system"):
        open_mini(tmp_path, sizes).sample("val", "episodes", 1, torch.Generator())
    assert not mark.exists()


@pytest.mark.parametrize("mean, std", [([0.5], [0.5]), ([0.5] * 3, None), (None, [0.5] * 3), ([0.5] * 3, [0, 1, 1])])
def test_bad_normalisation_is_named(tmp_path, sizes, mean, std):
    with pytest.raises(ValueError, match="data.mean and data.std must be 3 numbers each"):
        open_mini(tmp_path, sizes, mean, std)


@pytest.mark.slow
@pytest.mark.data
def test_real_data(real_root, sizes):
    data = open_mini(real_root, sizes, MEAN, STD)
    names = {}
    for split, classes in (("val", 16), ("test", 20)):
        names[split] = set(data.classes(split))
        assert len(names[split]) == classes and data.load(split).counts.unique().tolist() == [600]
    archive = real_root / "mini_imagenet" / "mini_imagenet_train.zip"
    if not archive.exists():
        pytest.skip("the training split is only listed, from mini_imagenet_train.zip")
    files = Zip(archive)
    train = by_class(files, "train")  # 800 MB decoded: only a sample of it here
    assert len(train) == 64 and {len(members) for members in train.values()} == {600}
    assert len(set(train) | names["val"] | names["test"]) == 100
    decode = ImageDecoder(3, 84, 84)
    sample = np.stack([decode(files.read(name)) for members in train.values() for name in members[::60]]) / 255
    assert np.allclose(sample.mean((0, 2, 3)), MEAN, atol=0.03)
    assert np.allclose(sample.std((0, 2, 3)), STD, atol=0.03)
