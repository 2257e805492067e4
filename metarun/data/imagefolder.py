"""Your own images, in folders: no code needed."""

from __future__ import annotations

import os
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


class ImageFolder(ImageTasks):
    """Images in folders `train/CLASS/IMAGE`, `val/CLASS/IMAGE` and `test/CLASS/IMAGE` (PNG, JPEG, WebP, TIFF, ...).

    Classes may have different numbers of images: in an episode every class is equally likely, in the stream `batches`
    every image. Only the splits that a run draws from need be there. How files are decoded says `images/pixels.py`,
    which names are left alone `images/files.py`; what is skipped, enlarged or in two splits is told on the console.

    Args:
        root: folder that holds train, val and test (see `data_roots`).
        size: height and width in pixels; images of another size are stretched to it (Lanczos).
        channels: 1 for grey, 3 for RGB.
        background: what shows through transparent pixels; a colour by name, or #rrggbb.
        min_images: classes of fewer images are left out of their split.
        sizes: the other arguments of `ImageTasks`.

    Raises:
        ValueError: an argument is out of range.
    """

    partitions: ClassVar[tuple[str, ...]] = ("folders",)

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        size: int,
        channels: int,
        background: str = "white",
        min_images: int = 1,
        **sizes: Any,
    ):
        super().__init__(channels=channels, **sizes)
        require_int("data", minimum=1, size=size, min_images=min_images)
        require("data.background", background, is_colour(background), "a colour, by name (white) or as '#rrggbb'")
        self.root, self.size, self.channels = root, size, channels
        self.background, self.min_images = background, min_images
        self._digests: dict[Split, dict[str, str]] = {}

    def in_shape(self, stream: str = "episodes") -> tuple[int, ...]:  # noqa: ARG002  (all streams are of images)
        return (self.channels, self.size, self.size)

    def load(self, split: Split) -> Images:
        folder = Folder(self._place(split))
        classes = by_class(folder, "")
        for line in left_out(folder):
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
        return self._large_classes(folder, images)

    def _place(self, split: Split) -> Path:
        places = [root / split for root in data_roots(self.root)]
        place = next((place for place in places if place.is_dir()), None)
        if place is not None:
            return place
        looked = "\n".join(f"    {place}/CLASS/IMAGE" for place in places)
        raise DataError(
            f"images of split {split!r} not found. Looked for:\n{looked}\n"
            f"Name the folder that holds train, val and test: data.root=FOLDER."
        )

    def _warn_of_overlap(self, split: Split, digests: dict[str, str]) -> None:
        """Tell of classes and images that this split has in common with one that was loaded before."""
        for other, others in self._digests.items():
            if other == split:
                continue
            both = f"splits {other!r} and {split!r} of {self._place(split).parent}"
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
