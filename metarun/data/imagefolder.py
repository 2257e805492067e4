"""Your own images, in folders: no code needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from metarun.checks import require, require_int
from metarun.data.image_tasks import ImageTasks
from metarun.data.roots import data_roots
from metarun.images.cache import cached
from metarun.images.decoding import by_class, class_contents, left_out
from metarun.images.files import Folder
from metarun.images.notices import counted, listed, tell
from metarun.images.pixels import ImageDecoder, is_colour
from metarun.images.store import Images
from metarun.tasks import DataError, Split

SHARE = 0.2  # of the classes, in val and in test each


class ImageFolder(ImageTasks):
    """Images in folders `train/CLASS/IMAGE`, `val/CLASS/IMAGE` and `test/CLASS/IMAGE` (PNG, JPEG, WebP, TIFF, ...).

    That is partition `folders`. In partition `seeded` there are only folders `CLASS/IMAGE`, and `split_seed` decides
    which 60 % of the classes are train, 20 % val and 20 % test. The result then names the classes of each split that
    the run has loaded, as `split_classes`. A class that is added or removed later may move others between splits.

    Classes may have different numbers of images: in an episode every class is equally likely, in the stream `batches`
    every image. Only the splits that a run draws from need be there. How files are decoded says `images/pixels.py`,
    which names are left alone `images/files.py`; what is skipped, enlarged or in two splits is told on the console.

    Args:
        root: folder that holds train, val and test, or in partition `seeded` the classes (see `data_roots`).
        size: height and width in pixels; images of another size are stretched to it (Lanczos).
        channels: 1 for grey, 3 for RGB.
        background: what shows through transparent pixels; a colour by name, or #rrggbb.
        min_images: classes of fewer images are left out of their split.
        split_seed: decides which classes are in which split in partition `seeded`; the other needs none.
        sizes: the other arguments of `ImageTasks`.

    Raises:
        ValueError: an argument is out of range.
    """

    partitions: ClassVar[tuple[str, ...]] = ("folders", "seeded")

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        size: int,
        channels: int,
        background: str = "white",
        min_images: int = 1,
        split_seed: int = 0,
        **sizes: Any,
    ):
        super().__init__(channels=channels, **sizes)
        require_int("data", minimum=1, size=size, min_images=min_images)
        require_int("data", split_seed=split_seed)
        require("data.background", background, is_colour(background), "a colour, by name (white) or as '#rrggbb'")
        self.root, self.size, self.channels = root, size, channels
        self.background, self.min_images = background, min_images
        self.split_seed = split_seed
        self._digests: dict[Split, dict[str, str]] = {}
        self._names: dict[Split, list[str]] = {}

    def in_shape(self, stream: str = "episodes") -> tuple[int, ...]:  # noqa: ARG002  (all streams are of images)
        return (self.channels, self.size, self.size)

    def load(self, split: Split) -> Images:
        folder = Folder(self._place(split))
        classes = self._of_split(split, folder, by_class(folder, ""))
        for line in left_out(folder) if self.partition == "folders" or not self._digests else ():
            tell(f"{folder}: {line}")
        if not classes:
            raise DataError(f"no image of the form CLASS/IMAGE in {folder}")
        digests = folder.digests([name for names in classes.values() for name in names])
        self._warn_of_overlap(split, digests)
        decoder = ImageDecoder(self.channels, self.size, self.size, self.background)
        key = [self.size, self.channels, self.background, list(digests.items())]
        images = cached(f"imagefolder-{split}", key, lambda: class_contents(folder, classes, decoder, self.size))
        for note in images.notes:
            tell(f"{folder}: {note}")
        images = self._large_classes(folder, images)
        self._names[split] = list(images.names)
        return images

    def describe(self) -> dict[str, Any]:
        return super().describe() | self.division()

    def division(self) -> dict[str, Any]:
        """What a result says of partition `seeded`; nothing of the other."""
        if self.partition != "seeded":
            return {}
        return {"split_seed": self.split_seed, "split_classes": dict(self._names)}

    def _of_split(self, split: Split, folder: Folder, classes: dict[str, list[str]]) -> dict[str, list[str]]:
        """The classes of a split, of all in the folder.

        Raises:
            DataError: there are fewer classes than splits.
        """
        if self.partition == "folders" or not classes:
            return classes
        if len(classes) < 3:
            raise DataError(
                f"{folder} must hold at least 3 folders of classes, one for each of train, val and test; "
                f"got {', '.join(classes)}"
            )
        return {name: classes[name] for name in seeded(list(classes), split, self.split_seed)}

    def _place(self, split: Split) -> Path:
        if self.partition == "seeded":
            return self._place_of_classes()
        places = [root / split for root in data_roots(self.root)]
        place = next((place for place in places if place.is_dir()), None)
        if place is not None:
            return place
        looked = "\n".join(f"    {place}/CLASS/IMAGE" for place in places)
        raise DataError(
            f"images of split {split!r} not found. Looked for:\n{looked}\n"
            f"Name the folder that holds train, val and test: data.root=FOLDER. Of folders CLASS/IMAGE without splits, "
            f"data.partition=seeded makes the splits."
        )

    def _place_of_classes(self) -> Path:
        roots = data_roots(self.root)
        for root in roots:
            if root.is_dir():
                return root
        raise DataError(
            f"folders of classes not found. Looked for:\n{chr(10).join(f'    {root}/CLASS/IMAGE' for root in roots)}\n"
            f"Name the folder that holds them: data.root=FOLDER."
        )

    def _warn_of_overlap(self, split: Split, digests: dict[str, str]) -> None:
        """Tell of classes and images that this split has in common with one that was loaded before."""
        for other, others in self._digests.items():
            if other == split:
                continue
            place = self._place(split)
            both = f"splits {other!r} and {split!r} of {place if self.partition == 'seeded' else place.parent}"
            classes = sorted({name.partition("/")[0] for name in digests} & {name.partition("/")[0] for name in others})
            if classes:
                tell(f"warning: {both} have {counted(len(classes), 'class')} of the same name: {listed(classes)}")
            where = {digest: name for name, digest in others.items()}
            images = [f"{where[digest]} = {name}" for name, digest in digests.items() if digest in where]
            if images:
                tell(f"warning: {both} have {counted(len(images), 'image')} in common: {listed(images)}")
        self._digests[split] = digests

    def _large_classes(self, folder: Folder, images: Images) -> Images:
        """The classes of at least `min_images`; says how many are left out."""
        least, most = self.min_images, int(images.counts.max())
        small = [name for name, n in zip(images.names, images.counts.tolist(), strict=True) if n < least]
        if not small:
            return images
        if most < least:
            raise DataError(f"data.min_images must be at most {most}, the images of the largest class in {folder}")
        tell(
            f"{folder}: {counted(len(small), 'class')} of fewer than data.min_images={least} images left out: "
            f"{listed(small)}"
        )
        keep = images.counts >= self.min_images
        names = tuple(name for name in images.names if name not in small)
        return Images(images.pixels[torch.repeat_interleave(keep, images.counts)], names, images.counts[keep])

    def _remedy(self, examples: int) -> str:
        return f". Leave them out with data.min_images={examples}"


def seeded(names: Sequence[str], split: Split, seed: int) -> list[str]:
    """The split's classes, in sorted order: of at least three, a fifth are val, a fifth test, and at least one each.

    The order is that of a hash, so no library's shuffle can ever change it.
    """
    order = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest())
    held_out = max(1, round(SHARE * len(order)))
    ends = {"test": (0, held_out), "val": (held_out, 2 * held_out), "train": (2 * held_out, len(order))}
    first, last = ends[split]
    return sorted(order[first:last])
