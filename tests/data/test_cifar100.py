"""CIFAR-100: its classes, and what is refused in its files."""

import numpy as np
import pytest
from few_shot_files import pixels, python2_pickle, write_python_folder

from metarun.data.cifar100 import CLASSES, SUPERCLASSES, python_arrays
from metarun.tasks import DataError


def test_the_classes_are_a_hundred_in_twenty_superclasses_of_five():
    assert len(set(CLASSES)) == 100 and len(SUPERCLASSES) == 20
    assert {len(names) for names in SUPERCLASSES.values()} == {5}
    assert list(SUPERCLASSES) == sorted(SUPERCLASSES)  # the coarse labels are in this order
    assert (CLASSES[0], CLASSES[21], CLASSES[39], CLASSES[99]) == ("apple", "chimpanzee", "keyboard", "worm")


def test_the_files_are_train_then_test(tmp_path):
    images, labels = python_arrays(write_python_folder(tmp_path))
    assert images.shape == (300, 32, 32, 3) and labels.dtype == np.int64
    for label in (0, 42, 99):
        assert np.array_equal(images[labels == label], pixels(CLASSES[label]))
    assert np.flatnonzero(labels == 42)[-1] >= 200  # the third image is of the file test


@pytest.mark.slow  # importing torchvision
def test_torchvision_reads_the_folder_of_this_test(tmp_path, monkeypatch):
    theirs = pytest.importorskip("torchvision.datasets").CIFAR100
    write_python_folder(tmp_path)
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(theirs, name, [[file, None] for file, _ in getattr(theirs, name)])
    monkeypatch.setattr(theirs, "meta", {**theirs.meta, "md5": None})
    dataset = theirs(str(tmp_path), train=False)
    assert dataset.classes == list(CLASSES)
    assert np.array_equal(dataset.data[dataset.targets.index(7)], pixels(CLASSES[7])[2])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([1], "must be a dict of data"),
        ({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [1]}, "fine_labels n integers"),
        ({"data": np.zeros((2, 3072)), "fine_labels": [1, 2]}, "of uint8 .*float64"),
        ({"data": np.zeros((2, 30), np.uint8), "fine_labels": [1, 2]}, r"must be a dict of data \[n, 3072\]"),
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, data, says):
    write_python_folder(tmp_path)
    (tmp_path / "cifar-100-python" / "test").write_bytes(python2_pickle(data))
    with pytest.raises(DataError, match=says):
        python_arrays(tmp_path / "cifar-100-python")


def test_names_of_other_classes_are_refused(tmp_path):
    write_python_folder(tmp_path)
    (tmp_path / "cifar-100-python" / "meta").write_bytes(python2_pickle({"fine_label_names": ["cat"]}))
    with pytest.raises(DataError, match="must name CIFAR-100's 100 classes in alphabetical order"):
        python_arrays(tmp_path / "cifar-100-python")
