"""The split of tiered-ImageNet is the paper's: its counts, and nothing in two splits."""

from metarun.data.tiered_imagenet_classes import CATEGORIES, SPLITS


def test_the_classes_are_as_many_as_the_papers():
    assert {split: len(names) for split, names in SPLITS.items()} == {"train": 351, "val": 97, "test": 160}
    assert {split: len(names) for split, names in CATEGORIES.items()} == {"train": 20, "val": 6, "test": 8}


def test_no_class_and_no_category_is_in_two_splits():
    assert len({name for names in SPLITS.values() for name in names}) == 608
    assert len({name for names in CATEGORIES.values() for name in names}) == 34


def test_classes_are_wordnet_numbers_in_order():
    for names in SPLITS.values():
        assert list(names) == sorted(names)
        assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in names)
