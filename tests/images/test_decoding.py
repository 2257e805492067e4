"""Image files become arrays of bytes: in order, at the size asked for, or with an error that names the file."""

import io

import numpy as np
import pytest
from PIL import Image

from metarun.images import decoding
from metarun.images.decoding import decoded
from metarun.images.files import Folder
from metarun.images.pixels import ImageDecoder
from metarun.tasks import DataError


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def test_images_come_in_order_whatever_thread_decodes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "CHUNK", 3)
    for i in range(50):
        (tmp_path / f"{i:02d}.png").write_bytes(png(np.full((4, 4), i, np.uint8)))
    files = Folder(tmp_path)
    pixels = np.concatenate(list(decoded(files, files.names(), ImageDecoder(1, 4, 4))))
    assert pixels[:, 0, 0, 0].tolist() == list(range(50))


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png in .* cannot be read as an image"):
        list(decoded(Folder(tmp_path), ["bad.png"], ImageDecoder(1, 4, 4)))


def test_one_bit_images_are_resized_with_antialiasing():
    checks = (np.indices((105, 105)).sum(0) % 2).astype(bool)
    pixels = ImageDecoder(1, 28, 28)(png(checks))
    # Nearest neighbour would give black and white only; averaging gives grey.
    assert pixels.shape == (1, 28, 28) and pixels.dtype == np.uint8
    assert 100 < pixels[0, 5:-5, 5:-5].mean() < 155 and pixels[0, 5:-5, 5:-5].std() < 30


def test_colour_keeps_its_channels():
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 200
    assert ImageDecoder(3, 4, 4)(png(red))[:, 0, 0].tolist() == [200, 0, 0]
