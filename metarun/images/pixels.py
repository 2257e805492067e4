"""The one decoder of image files: bytes to what a person sees, as 8-bit grey or RGB of a given size.

Bit depth is scaled, transparency is laid on a background, the orientation that a camera notes is applied, palettes and
other colour spaces are resolved, and of several frames the first is taken. Colour profiles (ICC) are not applied. What
has no stated range, such as floating-point pixels, is refused.
"""

from __future__ import annotations

import io
import threading
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

# Only these are tried, whatever a file is called: Pillow would hand others to programs such as Ghostscript.
FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA")
MAX_PIXELS = 89_478_485  # of one image; Pillow's own bound, from which on it warns
BITS, PHOTOMETRIC, ORIENTATION = 258, 262, 274  # tags of TIFF and EXIF
UPRIGHT = {  # what undoes each value of `ORIENTATION`
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_opening = threading.Lock()


class Decoded(NamedTuple):
    """An image as it is used, and what it was.

    Attributes:
        pixels: uint8 `[C, H, W]`.
        width, height: of the original, upright.
        animated: it has more than one frame.
    """

    pixels: np.ndarray
    width: int
    height: int
    animated: bool


@dataclass(frozen=True)
class ImageDecoder:
    """From bytes of an image file, or from an image, to uint8 `[channels, height, width]`.

    An image of another size is stretched, with an antialiased Lanczos filter. The conversion comes first, because
    Pillow resizes one-bit images such as Omniglot's by nearest neighbour, whatever filter is asked for.

    Args:
        channels: 1 (grey) or 3 (RGB).
        height, width: in pixels.
        background: what shows through transparent pixels; a name or #rrggbb, as `is_colour` has it.
    """

    channels: int
    height: int
    width: int
    background: str = "white"

    def __call__(self, data: bytes) -> np.ndarray:
        return self.decode(data).pixels

    def decode(self, data: bytes) -> Decoded:
        """Decode an image file.

        Raises:
            ValueError: it has too many pixels, or pixels of no stated range.
            Exception: whatever Pillow raises for damaged bytes.
        """
        with opened(data) as image:
            upright = seen(image, self.background)
            animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
        return Decoded(self.fitted(upright), *upright.size, animated)

    def prepare(self, image: Image.Image) -> np.ndarray:
        """An image that is decoded already, of any of Pillow's modes.

        Raises:
            ValueError: its pixels have no stated range.
        """
        return self.fitted(seen(image, self.background))

    def fitted(self, image: Image.Image) -> np.ndarray:
        """An image of mode L or RGB, in the channels and the size asked for."""
        converted = image.convert({1: "L", 3: "RGB"}[self.channels])
        if converted.size != (self.width, self.height):
            converted = converted.resize((self.width, self.height), Image.Resampling.LANCZOS)
        return np.asarray(converted).reshape(self.height, self.width, self.channels).transpose(2, 0, 1)


def is_colour(value: object) -> bool:
    """Whether a value names an opaque colour, as `white` and `#ffffff` do."""
    try:
        return isinstance(value, str) and len(ImageColor.getrgb(value)) == 3
    except ValueError:
        return False


def opened(data: bytes) -> Image.Image:
    """An image file, its head read.

    Raises:
        ValueError: it has too many pixels, or is of no format that is read.
        OSError, ...: it is damaged.
    """
    with _opening, warnings.catch_warnings():  # they are global: one thread at a time
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(data), formats=_formats())
        except UnidentifiedImageError as error:
            raise ValueError(f"it is damaged, or none of {', '.join(_formats())}") from error
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"it has {image.width} x {image.height} pixels, and at most {MAX_PIXELS:,} are decoded")
    if image.tile and isinstance(image.info.get("transparency"), int):  # which Pillow does not scale as it does pixels
        image.info["transparency"] *= {"L;2": 85, "L;4": 17}.get(str(image.tile[0][3]), 1)
    return image


def seen(image: Image.Image, background: str) -> Image.Image:
    """What a person sees of an image, upright, of mode L or RGB.

    Raises:
        ValueError: its mode has no stated range, or is unknown.
    """
    image.load()
    colours, opacity = _colours(image)
    if opacity is not None:
        ground = Image.new("RGB", image.size, background)
        colours = Image.composite(colours.convert("RGB"), ground, opacity)
    turn = UPRIGHT.get(_orientation(image))
    return colours if turn is None else colours.transpose(turn)


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # a camera's notes are damaged in many ways; the picture is there all the same
        return None


def _colours(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """An image's colours, of mode L or RGB, and its opacity, of mode L; None: opaque."""
    mode, key = image.mode, image.info.get("transparency")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or (mode == "P" and key is not None):
        image = _without_alpha_multiplied(image).convert("RGBA")
        return image.convert("RGB"), image.getchannel("A")
    if mode == "P" and image.palette is not None and image.palette.mode == "RGBA":
        image = image.convert("RGBA")
        return image.convert("RGB"), image.getchannel("A")
    if mode.startswith("I"):
        return _scaled(image), _unlike(image, key)
    if mode in ("1", "L"):
        return image.convert("L"), _unlike(image, key)
    if mode == "RGB":
        return image, _unlike(image, key)
    if mode in ("P", "RGBX", "CMYK", "YCbCr", "HSV"):
        return image.convert("RGB"), None
    if mode == "LAB":
        return _from_lab(image), None
    numbers = "floating-point pixels" if mode == "F" else f"pixels of mode {mode}"
    raise ValueError(f"{numbers} have no stated range: save it with 8 or 16 bits a channel")


def _without_alpha_multiplied(image: Image.Image) -> Image.Image:
    return image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))


def _scaled(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits in 8 bits.

    Raises:
        ValueError: its range is not known.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # which have 16 bits in it
        raise ValueError("pixels of 32 bits, or with a sign, have no stated range: save it with 8 or 16 bits a channel")
    white = 2 ** int(tags.get(BITS, (16,))[0]) - 1
    grey = np.asarray(image).clip(0, white).astype(np.uint32)
    if tags.get(PHOTOMETRIC) == 0:
        grey = white - grey
    return Image.fromarray(((grey * 255 + white // 2) // white).astype(np.uint8))


def _unlike(image: Image.Image, key: Any) -> Image.Image | None:
    """The opacity of an image of which one value, `key`, is transparent; None: there is no such value."""
    if key is None or isinstance(key, bytes):
        return None
    if image.mode == "RGB" and max(key) > 255:  # of 16 bits, of which Pillow keeps the upper ones
        key = tuple(value >> 8 for value in key)
    pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
    opaque = pixels != np.asarray(key)
    return Image.fromarray(((opaque if opaque.ndim == 2 else opaque.any(-1)) * 255).astype(np.uint8))


def _from_lab(image: Image.Image) -> Image.Image:
    try:
        from PIL import ImageCms
    except ImportError as error:
        raise ValueError("pixels of mode LAB need a Pillow with LittleCMS") from error
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None
    return converted
