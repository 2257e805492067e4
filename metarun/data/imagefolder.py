"""Your own images, in folders: no code needed."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from metarun.checks import require_int
from metarun.data.image_tasks import ImageTasks
from metarun.data.roots import data_roots
from metarun.images.cache import cached
from metarun.images.decoding import folder_contents
from metarun.images.files import Folder
from metarun.images.store import Images
from metarun.tasks import DataError, Split


class ImageFolder(ImageTasks):
    """Images in folders `train/CLASS/IMAGE`, `val/CLASS/IMAGE` and `test/CLASS/IMAGE` (PNG, JPEG, WebP, ...).

    Classes may have different numbers of images: in an episode every class is equally likely, in the stream `batches`
    every image.

    Args:
        root: folder that holds train, val and test (see `data_roots`).
        size: height and width in pixels; images of another size are stretched to it (Lanczos).
        channels: 1 for grey, 3 for RGB.
        sizes: the other arguments of `ImageTasks`.
    """

    partitions: ClassVar[tuple[str, ...]] = ("folders",)

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        size: int,
        channels: int,
        **sizes: Any,
    ):
        super().__init__(channels=channels, **sizes)
        require_int("data", minimum=1, size=size)
        self.root, self.size, self.channels = root, size, channels

    def in_shape(self, stream: str = "episodes") -> tuple[int, ...]:  # noqa: ARG002  (all streams are of images)
        return (self.channels, self.size, self.size)

    def load(self, split: Split) -> Images:
        places = [root / split for root in data_roots(self.root)]
        place = next((place for place in places if place.is_dir()), None)
        if place is not None:
            files, channels, size = Folder(place), self.channels, self.size
            key = [size, channels, files.fingerprint()]
            return cached(f"imagefolder-{split}", key, lambda: folder_contents(files, "", channels, size))
        looked = "\n".join(f"    {place}/CLASS/IMAGE" for place in places)
        raise DataError(
            f"images of split {split!r} not found. Looked for:\n{looked}\n"
            f"Name the folder that holds train, val and test: data.root=FOLDER."
        )
