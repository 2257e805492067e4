"""CIFAR-FS: the 100 classes of CIFAR-100 in 64 train, 16 val, 20 test (Bertinetto et al., ICLR 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from metarun.data.cifar100 import CLASSES, PYTHON, Cifar100Tasks
from metarun.tasks import Split

# The lists splits/bertinetto/{train,val,test}.txt of the authors' archive, as the repository tristandeleu/pytorch-meta
# has them in torchmeta/datasets/assets/cifar100/cifar-fs/; train is all other classes.
HELD_OUT: dict[Split, tuple[str, ...]] = {
    "val": (
        *("beaver", "beetle", "butterfly", "camel", "cattle", "crab", "crocodile", "flatfish", "lamp", "maple_tree"),
        *("motorcycle", "otter", "sea", "shark", "television", "tractor"),
    ),
    "test": (
        *("baby", "bed", "bicycle", "chimpanzee", "fox", "leopard", "man", "pickup_truck", "plain", "poppy", "rocket"),
        *("rose", "snail", "sweet_pepper", "table", "telephone", "wardrobe", "whale", "woman", "worm"),
    ),
}
SPLITS: dict[Split, tuple[str, ...]] = {
    "train": tuple(name for name in CLASSES if not any(name in names for names in HELD_OUT.values())),
    **HELD_OUT,
}


class CifarFS(Cifar100Tasks):
    """CIFAR-FS, RGB, 32x32: random classes of CIFAR-100, so that similar ones are in different splits.

    Source: the GitHub repository bertinetto/r2d2, whose README links to the archive. Licence: CIFAR-100's page states
    none. Layout: folder `root` holds one of these, directly or in `cifar_fs/` (also `cifar-fs/`, `cifarfs/`,
    `CIFAR-FS/`, `cifar100/`):
        cifar-100-python/: files train, test and meta, as torchvision and CIFAR-100's own archive leave them;
        CIFAR_FS_{train,val,test}.pickle: `data [n, 32, 32, 3]` and `labels`, as MetaOptNet has them;
        cifar100.zip (also cifarfs.zip, cifar_fs.zip): the authors' archive, with cifar100/data/CLASS/IMAGE;
        cifar100/data/: the same, unpacked.

    Args:
        root, size, sizes: see `Cifar100Tasks`.
    """

    partitions: ClassVar[tuple[str, ...]] = ("bertinetto",)
    title: ClassVar[str] = "CIFAR-FS"
    name: ClassVar[str] = "cifar_fs"
    below: ClassVar[tuple[str, ...]] = ("", "cifar_fs", "cifar-fs", "cifarfs", "CIFAR-FS", "cifar100")
    splits: ClassVar[Mapping[Split, tuple[str, ...]]] = SPLITS

    def forms(self, split: Split) -> tuple[str, ...]:
        zips = ("cifar100.zip", "cifarfs.zip", "cifar_fs.zip")
        return (PYTHON, f"CIFAR_FS_{split}.pickle", *zips, "cifar100/data")
