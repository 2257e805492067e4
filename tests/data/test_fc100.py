"""FC100: the paper's split by superclass, and the same images out of every form."""

import numpy as np
import pytest
from few_shot_files import pixels, write_metaoptnet_pickle, write_python_folder, write_tadam_npz

from metarun.data import cifar100
from metarun.data.cifar100 import CLASSES, SUPERCLASSES
from metarun.data.fc100 import FC100, SPLITS, SUPERCLASSES_OF
from metarun.tasks import DataError


@pytest.fixture(autouse=True)
def little(monkeypatch):
    monkeypatch.setattr(cifar100, "PER_CLASS", 3)


def opened(root, sizes):
    return FC100(root=root, size=32, partition="tadam", **sizes)


def write_python(root):
    write_python_folder(root)


def write_npz(root):
    for split, classes in SPLITS.items():
        write_tadam_npz(root / f"few-shot-{split}.npz", classes)


def write_pickles(root):
    numbers = {name: i for i, name in enumerate(CLASSES)}
    for split, classes in SPLITS.items():
        write_metaoptnet_pickle(root / f"FC100_{split}.pickle", classes, numbers)


def test_the_split_is_the_papers():
    assert {split: len(names) for split, names in SPLITS.items()} == {"train": 60, "val": 20, "test": 20}
    assert sorted(name for names in SPLITS.values() for name in names) == list(CLASSES)
    # TADAM's script has the numbers of the superclasses, which are in alphabetical order.
    numbers = {split: {list(SUPERCLASSES).index(name) for name in names} for split, names in SUPERCLASSES_OF.items()}
    assert numbers == {
        "train": {1, 2, 3, 4, 5, 6, 9, 10, 15, 17, 18, 19},
        "val": {8, 11, 13, 16},
        "test": {0, 7, 12, 14},
    }


@pytest.mark.parametrize("base", ["", "FC100"])
@pytest.mark.parametrize("write", [write_python, write_npz, write_pickles])
def test_every_form_gives_the_same(tmp_path, sizes, write, base):
    write(tmp_path / base)
    data = opened(tmp_path, sizes)
    data.prepare()
    for split, classes in SPLITS.items():
        images = data.load(split)
        assert images.names == classes
        assert np.array_equal(images.pixels.numpy(), np.concatenate([pixels(n) for n in classes]).transpose(0, 3, 1, 2))


def test_an_npz_of_another_split_is_refused(tmp_path, sizes):
    write_tadam_npz(tmp_path / "few-shot-val.npz", SPLITS["test"])
    with pytest.raises(DataError, match=r"few-shot-val\.npz must hold the fine labels \[3, 15"):
        opened(tmp_path, sizes).load("val")


def test_an_npz_of_objects_is_refused_and_not_unpickled(tmp_path, sizes):
    np.savez(tmp_path / "few-shot-val.npz", features=np.array([{}], object), targets=np.zeros(1, np.int64))
    with pytest.raises(DataError, match="must be an npz file of arrays; it is unusable .*allow_pickle=False"):
        opened(tmp_path, sizes).load("val")


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"<!DOCTYPE html>", "it is a web page"), (b"", "it is an empty file"), (b"PK rubbish", "unusable")],
)
def test_what_is_no_npz_is_told(tmp_path, sizes, content, says):
    (tmp_path / "few-shot-val.npz").write_bytes(content)
    with pytest.raises(DataError, match=f"must be an npz file of arrays; .*{says}"):
        opened(tmp_path, sizes).load("val")


def test_what_is_missing_is_named_with_the_command(tmp_path, sizes):
    with pytest.raises(DataError, match="FC100, split 'test', not found") as caught:
        opened(tmp_path, sizes).load("test")
    assert str(tmp_path / "few-shot-test.npz") in str(caught.value)
    assert "metarun-download fc100 --root" in str(caught.value)
