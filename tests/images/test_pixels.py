"""The one decoder: every mode in every format that can hold it becomes what a person sees, or is refused."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from metarun.images import pixels
from metarun.images.pixels import ImageDecoder, is_colour, opened

SIDE = 16  # of a patch: what lossy formats do to its border is cut off
GREYS = (0, 60, 140, 255)
COLOURS = ((0, 0, 0), (200, 30, 30), (20, 160, 90), (255, 255, 255))
OPACITIES = (255, 0, 128, 255)
BACKGROUND = (250, 120, 10)


def patches(values):
    """Four squares in a row, of these values."""
    return np.repeat(np.asarray(values), SIDE, 0)[None].repeat(SIDE, 0)


def of_greys(mode):
    """Grey squares in a mode, made without Pillow's conversions to more than 8 bits."""
    grey = patches(GREYS)
    wide = {"I;16": "<u2", "I;16L": "<u2", "I;16B": ">u2", "I": "<i4"}
    if mode in wide:
        data = (grey * 257).astype(wide[mode]).tobytes()
        return Image.frombytes(mode, grey.shape[::-1], data)
    if mode == "F":
        return Image.fromarray((grey / 255).astype(np.float32))
    if mode == "1":
        return Image.fromarray(grey.astype(np.uint8)).point(lambda v: 255 * (v > 100)).convert("1")
    return Image.fromarray(grey.astype(np.uint8)).convert(mode)


def of_colours(mode):
    image = Image.fromarray(patches(COLOURS).astype(np.uint8))
    if mode == "LAB":
        return ImageCms.profileToProfile(
            image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    return image.quantize(16) if mode == "P" else image.convert(mode)


def with_opacity(mode):
    opacity = Image.fromarray(patches(OPACITIES).astype(np.uint8))
    image = of_greys("L") if mode == "LA" else of_colours("RGB")
    image.putalpha(opacity)
    return image.convert(mode)


def palette_with_a_transparent_entry(opacities):
    """A palette of the four colours whose second is transparent (`opacities` None), or all are as it says."""
    image = Image.fromarray(patches(range(4)).astype(np.uint8), "P")
    image.putpalette([v for colour in COLOURS for v in colour])
    image.info["transparency"] = 1 if opacities is None else bytes(opacities)
    return image


def seen_greys(values=GREYS):
    return np.asarray(values)[:, None].repeat(3, 1)


def laid_on(colours, opacities, background):
    opacity = np.asarray(opacities)[:, None] / 255
    return np.asarray(colours) * opacity + np.asarray(background) * (1 - opacity)


GREY = ("1", "L", "I", "I;16", "I;16L", "I;16B")
COLOUR = ("RGB", "RGBX", "CMYK", "YCbCr", "LAB", "P")
# What each format keeps of what it is given. Pillow gives others to it only after a conversion of its own.
HOLDS = {
    "PNG": ("1", "L", "I;16", "I;16B", "RGB", "P", "LA", "RGBA", "P key", "P bytes"),
    "JPEG": ("1", "L", "RGB", "RGBX", "CMYK", "YCbCr"),
    "TIFF": ("1", "L", "I;16", "I;16L", "I;16B", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "P", "LA", "RGBA", "PA"),
    "WEBP": ("1", "L", "RGB", "RGBX", "CMYK", "YCbCr", "P", "LA", "RGBA", "PA", "P key", "P bytes"),
    "BMP": ("1", "L", "RGB", "P"),
    "GIF": ("1", "L", "RGB", "P", "P key"),
    "PPM": ("1", "L", "I", "I;16", "RGB"),
    "JPEG2000": ("L", "I;16", "I;16B", "RGB", "CMYK", "YCbCr", "LA", "RGBA"),
    "TGA": ("1", "L", "RGB", "P", "LA", "RGBA"),
}
EXACT = {"PNG": 1, "TIFF": 2, "BMP": 1, "GIF": 1, "PPM": 1, "TGA": 1}  # of 255; others are lossy
LOSSLESS = {"WEBP": {"lossless": True, "exact": True}, "JPEG": {"quality": 95}, "TIFF": {}}
REFUSED = {"TIFF": ("I", "F"), "PPM": ("F",)}


def made(mode):
    """An image in a mode, and what a person sees of its four patches."""
    if mode == "1":
        return of_greys(mode), seen_greys([255 * (v > 100) for v in GREYS])
    if mode in GREY or mode == "F":
        return of_greys(mode), seen_greys()
    if mode in COLOUR:
        return of_colours(mode), np.asarray(COLOURS)
    if mode == "P key":
        return palette_with_a_transparent_entry(None), laid_on(COLOURS, (255, 0, 255, 255), BACKGROUND)
    if mode == "P bytes":
        return palette_with_a_transparent_entry(OPACITIES), laid_on(COLOURS, OPACITIES, BACKGROUND)
    colours = seen_greys() if mode == "LA" else COLOURS
    return with_opacity(mode), laid_on(colours, OPACITIES, BACKGROUND)


def saved(image, file_format, **how):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **LOSSLESS.get(file_format, {}) | how)
    return buffer.getvalue()


def readable(data):
    """Whether Pillow reads what it wrote itself; before version 13 it did not read a TIFF of YCbCr."""
    try:
        Image.open(io.BytesIO(data)).load()
    except OSError:
        return False
    return True


def middles(decoded):
    """`[C, H, W]` -> the middle of each patch `[4, C]`."""
    return decoded[:, SIDE // 2, SIDE // 2 :: SIDE].T.astype(float)


def decode(data, channels=3, background="#fa780a"):
    return middles(ImageDecoder(channels, SIDE, 4 * SIDE, background)(data))


@pytest.mark.parametrize(("file_format", "mode"), [(f, mode) for f, modes in HOLDS.items() for mode in modes])
def test_a_mode_in_a_format_is_what_a_person_sees(file_format, mode):
    image, expected = made(mode)
    data = saved(image, file_format)
    if not readable(data):
        with pytest.raises(OSError):
            decode(data)
        return
    bound = EXACT.get(file_format, 12)
    assert np.abs(decode(data) - expected).max() <= bound
    luma = expected @ (0.299, 0.587, 0.114)
    assert np.abs(decode(data, channels=1)[:, 0] - luma).max() <= bound


@pytest.mark.parametrize(("file_format", "mode"), [(f, mode) for f, modes in REFUSED.items() for mode in modes])
def test_what_has_no_range_is_refused(file_format, mode):
    with pytest.raises(ValueError, match="have no stated range: save it with 8 or 16 bits a channel"):
        ImageDecoder(3, 4, 4)(saved(of_greys(mode), file_format))


def test_the_table_misses_no_mode_that_a_format_keeps():
    """Whatever Pillow saves and reads as the mode that it was given is in the table, or refused."""
    for file_format in HOLDS:
        for mode in "1 L LA P PA RGB RGBA RGBX CMYK YCbCr LAB HSV I I;16 I;16B F".split():
            try:
                with Image.open(io.BytesIO(saved(Image.new(mode, (8, 8)), file_format))) as image:
                    kept = image.mode == mode
            except (OSError, ValueError, KeyError):
                continue
            assert not kept or mode in HOLDS[file_format] + REFUSED.get(file_format, ()), (file_format, mode)


@pytest.mark.parametrize("mode", "1 L LA La RGB RGBA RGBa RGBX P PA CMYK YCbCr HSV".split())
def test_an_image_that_was_never_a_file(mode):
    by_way_of = {"La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")
    image = Image.new("RGB", (4, 4), "white").convert(by_way_of).convert(mode)
    assert ImageDecoder(3, 4, 4, "black").prepare(image).min() >= 253
    assert ImageDecoder(1, 4, 4, "black").prepare(image).min() >= 253


def test_sixteen_bits_are_scaled():
    """The value of a report: 3000 of 65535 was white."""
    data = saved(Image.fromarray(np.full((28, 28), 3000, np.uint16)), "PNG")
    assert np.unique(ImageDecoder(1, 28, 28)(data)).tolist() == [12]


SIXTEEN = (257, 514, 771, 1028, 1285, 1542)


def png(bits, colour, row, *chunks):
    """A PNG of one row, written here."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    samples = {0: 1, 2: 3}[colour]
    head = struct.pack(">IIBBBBB", len(row) * 8 // bits // samples, 1, bits, colour, 0, 0, 0)
    body = [chunk(b"IHDR", head), *(chunk(*c) for c in chunks), chunk(b"IDAT", zlib.compress(b"\0" + row))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bits", "colour", "row", "key", "expected"),
    [
        (1, 0, b"\x0f", b"\0\1", [[0]] * 4 + [[10]] * 4),
        (2, 0, bytes([0b00011011]), b"\0\2", [[0], [85], [10], [255]]),
        (4, 0, b"\x0f", b"\0\x0f", [[0], [10]]),
        (8, 0, bytes([0, 7, 200]), b"\0\7", [[0], [10], [200]]),
        (16, 0, struct.pack(">3H", 0, 2570, 65535), struct.pack(">H", 65535), [[0], [10], [10]]),
        (8, 2, bytes([1, 2, 3, 4, 5, 6]), struct.pack(">3H", 4, 5, 6), [[1, 2, 3], [10, 10, 10]]),
        (16, 2, struct.pack(">6H", *SIXTEEN), struct.pack(">3H", *SIXTEEN[3:]), [[1, 2, 3], [10] * 3]),
    ],
)
def test_a_colour_that_a_png_calls_transparent(bits, colour, row, key, expected):
    decoder = ImageDecoder(len(expected[0]), 1, len(expected), "#0a0a0a")
    assert decoder(png(bits, colour, row, (b"tRNS", key)))[:, 0].T.tolist() == expected


def test_tiffs_of_twelve_bits_and_of_white_at_zero():
    """Pillow reads 12 bits as 16, and does not turn what is white at 0 in 16."""
    decoder = ImageDecoder(1, 4, 4)
    twelve = Image.fromarray(np.full((4, 4), 146 * 4095 // 255, np.uint16))
    with Image.open(io.BytesIO(saved(twelve, "TIFF"))) as file:
        file.load()
        file.tag_v2[258] = (12,)
        assert np.unique(decoder.prepare(file)).tolist() == [146]
    turned = Image.fromarray(np.full((4, 4), 65535 - 146 * 257, np.uint16))
    assert np.unique(decoder(saved(turned, "TIFF", tiffinfo={262: 0}))).tolist() == [146]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_that_a_camera_notes_is_applied(file_format, orientation):
    """A dark bar at the left, as it looks once upright; the file holds it turned, and says how."""
    upright = np.full((16, 16), 255, np.uint8)
    upright[:, :8], upright[:8, :8] = 0, 100
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    data = saved(Image.fromarray(np.ascontiguousarray(stored)), file_format, exif=exif)
    assert np.abs(ImageDecoder(1, 16, 16)(data)[0].astype(int) - upright).mean() < 4


def test_the_first_of_several_frames_is_taken():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    for file_format in ("GIF", "WEBP", "PNG", "TIFF"):
        data = saved(frames[0], file_format, save_all=True, append_images=frames[1:])
        decoded = ImageDecoder(3, 8, 8).decode(data)
        assert decoded.animated and decoded.pixels[:, 4, 4].tolist() == [255, 0, 0]
        assert not ImageDecoder(3, 8, 8).decode(saved(frames[0], file_format)).animated


def test_a_bomb_is_refused_by_its_head():
    """A gigapixel in a few bytes; one above the limit is refused without a warning."""
    for side in (50_000, 9_460):
        head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
        chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
        body = b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
        with pytest.raises((ValueError, Image.DecompressionBombError), match="pixels"):
            opened(b"\x89PNG\r\n\x1a\n" + chunk + body)


def test_formats_that_start_other_programs_are_not_tried():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"
    Image.open(io.BytesIO(eps)).close()  # Pillow would
    with pytest.raises(ValueError, match="it is damaged, or none of PNG, JPEG"):
        ImageDecoder(1, 4, 4)(eps)


def test_colours():
    assert all(map(is_colour, ("white", "black", "#ffffff", "#123", "rgb(1,2,3)")))
    assert not any(map(is_colour, ("paper", "#12", None, 3, [1, 2, 3], "#ffffff80", "")))


def test_sizes_are_of_the_upright_image():
    exif = Image.Exif()
    exif[274] = 6
    data = saved(Image.new("L", (30, 20)), "JPEG", exif=exif)
    assert ImageDecoder(1, 4, 4).decode(data)[1:] == (20, 30, False)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("file_format", [*HOLDS])
def test_damaged_files_raise_and_nothing_else(file_format):
    """Cut off or with flipped bytes: an error or some picture, no crash and no hang. Seed 0."""
    whole, rng = saved(of_colours("RGB"), file_format), random.Random(0)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            assert ImageDecoder(3, 8, 8)(bytes(data[: rng.randint(1, len(data))])).shape == (3, 8, 8)
        except Exception as error:
            assert not isinstance(error, AssertionError)


def test_pixels_limit_is_pillows():
    assert pixels.MAX_PIXELS == 1024 * 1024 * 1024 // 4 // 3
