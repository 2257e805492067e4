"""FC100: CIFAR-100 divided by superclass: 60 train, 20 val, 20 test classes (Oreshkin et al., NeurIPS 2018: TADAM)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from metarun.data.cifar100 import PYTHON, SUPERCLASSES, Cifar100Tasks
from metarun.tasks import Split

# Superclasses: `class_split` in datasets/create_dataset_cifar100.py of the GitHub repository ServiceNow/TADAM (formerly
# ElementAI/TADAM); train is all others.
HELD_OUT: dict[Split, tuple[str, ...]] = {
    "val": ("large_carnivores", "large_omnivores_and_herbivores", "non-insect_invertebrates", "small_mammals"),
    "test": ("aquatic_mammals", "insects", "medium_mammals", "people"),
}
SUPERCLASSES_OF: dict[Split, tuple[str, ...]] = {
    "train": tuple(name for name in SUPERCLASSES if not any(name in names for names in HELD_OUT.values())),
    **HELD_OUT,
}
SPLITS: dict[Split, tuple[str, ...]] = {
    split: tuple(sorted(name for superclass in chosen for name in SUPERCLASSES[superclass]))
    for split, chosen in SUPERCLASSES_OF.items()
}


class FC100(Cifar100Tasks):
    """FC100, RGB, 32x32: no superclass of CIFAR-100 is in two splits, so that test classes are unlike training classes.

    Source: the GitHub repository ServiceNow/TADAM, which makes it from CIFAR-100. Licence: CIFAR-100's page states
    none. Layout: folder `root` holds one of these, directly or in `fc100/` (also `FC100/`, `cifar100/`):
        cifar-100-python/: files train, test and meta, as torchvision and CIFAR-100's own archive leave them;
        few-shot-{train,val,test}.npz: `features [n, 32, 32, 3]` and `targets` (fine labels), as TADAM's script
            makes them;
        FC100_{train,val,test}.pickle: `data [n, 32, 32, 3]` and `labels`, as MetaOptNet and learn2learn have them.

    Args:
        root, size, sizes: see `Cifar100Tasks`.
    """

    partitions: ClassVar[tuple[str, ...]] = ("tadam",)
    title: ClassVar[str] = "FC100"
    name: ClassVar[str] = "fc100"
    below: ClassVar[tuple[str, ...]] = ("", "fc100", "FC100", "cifar100")
    splits: ClassVar[Mapping[Split, tuple[str, ...]]] = SPLITS

    def forms(self, split: Split) -> tuple[str, ...]:
        return (PYTHON, f"few-shot-{split}.npz", f"FC100_{split}.pickle")
