"""CIFAR-FS: the paper's split, and the same images out of every form."""

import os
import pickle

import numpy as np
import pytest
from few_shot_files import (
    class_files,
    pixels,
    write_authors_zip,
    write_metaoptnet_pickle,
    write_python_folder,
)

from metarun.data import cifar100
from metarun.data.cifar100 import CLASSES
from metarun.data.cifar_fs import SPLITS, CifarFS
from metarun.experiment.choices import describe
from metarun.tasks import DataError


@pytest.fixture(autouse=True)
def little(request, monkeypatch):
    if not request.node.get_closest_marker("data"):
        monkeypatch.setattr(cifar100, "PER_CLASS", 3)


def opened(root, sizes, size=32):
    return CifarFS(root=root, size=size, partition="bertinetto", **sizes)


def wanted(split):
    return np.concatenate([pixels(name) for name in SPLITS[split]]).transpose(0, 3, 1, 2)


def write_python(root):
    write_python_folder(root)


def write_zip(root):
    write_authors_zip(root, SPLITS)


def write_unpacked(root):
    for name, data in class_files().items():
        file = root / "cifar100" / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def write_pickles(root):
    """By the fine labels of CIFAR-100."""
    for split, classes in SPLITS.items():
        numbers = {name: i for i, name in enumerate(CLASSES)}
        write_metaoptnet_pickle(root / f"CIFAR_FS_{split}.pickle", classes, numbers)


def test_the_split_is_the_papers():
    assert {split: len(names) for split, names in SPLITS.items()} == {"train": 64, "val": 16, "test": 20}
    assert sorted(name for names in SPLITS.values() for name in names) == list(CLASSES)
    assert all(list(names) == sorted(names) for names in SPLITS.values())


@pytest.mark.parametrize("base", ["", "cifar-fs"])
@pytest.mark.parametrize("write", [write_python, write_zip, write_unpacked, write_pickles])
def test_every_form_gives_the_same(tmp_path, sizes, write, base):
    write(tmp_path / base)
    data = opened(tmp_path, sizes)
    data.prepare()
    for split in ("val", "test"):
        images = data.load(split)
        assert images.names == SPLITS[split] and images.counts.unique().tolist() == [3]
        assert np.array_equal(images.pixels.numpy(), wanted(split))
    assert len(data.classes("train")) == 64


def test_another_size_is_that_of_the_one_decoder(tmp_path, sizes):
    write_zip(tmp_path / "zip")
    write_python(tmp_path / "python")
    one, other = (opened(tmp_path / name, sizes, size=84) for name in ("zip", "python"))
    assert one.in_shape() == (3, 84, 84)
    assert np.array_equal(one.load("val").pixels.numpy(), other.load("val").pixels.numpy())


def test_a_pickle_with_numbers_of_its_own_has_unnamed_classes(tmp_path, sizes):
    write_metaoptnet_pickle(
        tmp_path / "CIFAR_FS_val.pickle", SPLITS["val"], {name: 64 + i for i, name in enumerate(SPLITS["val"])}
    )
    images = opened(tmp_path, sizes).load("val")
    assert images.names[:2] == ("class_064", "class_065") and np.array_equal(images.pixels.numpy(), wanted("val"))


def test_a_copy_elsewhere_is_not_decoded_again(tmp_path, sizes, cache):
    for place in ("here", "there"):
        write_python_folder(tmp_path / place)
        opened(tmp_path / place, sizes).load("val")
    assert len([path for path in (cache / "images").iterdir() if path.is_dir()]) == 1


def test_what_is_missing_is_named_with_the_command(tmp_path, sizes):
    with pytest.raises(DataError, match="CIFAR-FS, split 'val', not found") as caught:
        opened(tmp_path, sizes).load("val")
    for name in ("cifar-100-python", "CIFAR_FS_val.pickle", "cifar_fs/cifar100.zip", "cifarfs/cifar100/data"):
        assert str(tmp_path / name) in str(caught.value)
    assert "metarun-download cifar_fs --root" in str(caught.value)


def test_incomplete_data_is_refused(tmp_path, sizes, monkeypatch):
    write_zip(tmp_path)
    monkeypatch.setattr(cifar100, "PER_CLASS", 600)
    with pytest.raises(DataError, match="must hold the 16 classes of 600 images .*; got 16 classes of 3 to 3"):
        opened(tmp_path, sizes).load("val")


def test_a_folder_without_a_class_is_refused(tmp_path, sizes):
    for name, data in class_files(("apple", "otter")).items():
        file = tmp_path / "cifar100" / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    with pytest.raises(DataError, match="must hold the classes of CIFAR-100; got none of 'beaver'"):
        opened(tmp_path, sizes).load("val")


class Payload:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, sizes):
    mark = tmp_path / "it ran"
    (tmp_path / "CIFAR_FS_val.pickle").write_bytes(pickle.dumps({"data": Payload(f"touch '{mark}'")}))
    with pytest.raises(DataError, match="it asks for posix.system"):
        opened(tmp_path, sizes).load("val")
    assert not mark.exists()


@pytest.mark.slow
@pytest.mark.data
def test_real_data_have_the_statistics_of_the_configuration(real_root, sizes):
    if not any((real_root / name).exists() for name in ("cifar-100-python", "cifar_fs", "cifar100")):
        pytest.skip("no CIFAR-100 among the real data")
    stated = describe("data", "cifar_fs")
    x = opened(real_root, sizes).load("train").pixels.double() / 255
    mean = x.mean((0, 2, 3))
    spread = (x - mean.view(3, 1, 1)).square().mean((0, 2, 3)).sqrt()
    assert len(x) == 64 * 600
    assert mean.tolist() == pytest.approx(stated["mean"], abs=1e-4)
    assert spread.tolist() == pytest.approx(stated["std"], abs=1e-4)
