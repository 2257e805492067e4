"""PNGs as the figures are written."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def is_png(path: Path) -> bool:
    """Whether a file is a complete PNG, of the size and the resolution of the figures."""
    with Image.open(path) as image:
        image.load()
        assert image.size[0] >= 400 and round(image.info["dpi"][0]) == 150
        return image.format == "PNG"
