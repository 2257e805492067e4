"""Image files become arrays of bytes: in order, at the size asked for, or with an error that names the file."""

import io

import numpy as np
import pytest
from PIL import Image

from metarun.images import decoding
from metarun.images.decoding import Survey, decoded
from metarun.images.files import Folder
from metarun.images.pixels import Decoded, ImageDecoder
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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!doctype html><p>gone", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS, not the file itself"),
        (b"", "it is an empty file"),
        (png(np.zeros((9, 9), np.uint8))[:-30], "it is damaged, or none of PNG, JPEG"),
        (png(np.random.RandomState(0).randint(256, size=(50, 50), dtype=np.uint8))[:-900], "truncated"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\xff" * 30, ""),
    ],
)
def test_what_a_file_is_instead_of_an_image_is_said(tmp_path, content, says):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"bad\.png in .* cannot be read as an image: .*({says})"):
        list(decoded(Folder(tmp_path), ["bad.png"], ImageDecoder(1, 4, 4)))


def test_after_an_error_the_rest_is_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "CHUNK", 1)
    monkeypatch.setattr(decoding.os, "cpu_count", lambda: 1)
    for i in range(40):
        (tmp_path / f"{i:02d}.png").write_bytes(b"bad" if i == 0 else png(np.zeros((4, 4), np.uint8)))
    read, files = [], Folder(tmp_path)
    monkeypatch.setattr(files, "read", lambda name: read.append(name) or Folder.read(files, name))
    with pytest.raises(DataError, match=r"00\.png"):
        list(decoded(files, files.names(), ImageDecoder(1, 4, 4)))
    assert len(read) < 10


def test_a_survey_counts_frames_and_sizes():
    survey, pixels = Survey(), np.zeros((1, 4, 4), np.uint8)
    assert survey.words(84) == []
    for name, width, height, animated in (
        ("b", 32, 32, True),
        ("a", 84, 84, True),
        ("c", 90, 40, False),
        ("d", 8, 84, False),
    ):
        survey.add(name, Decoded(pixels, width, height, animated))
    frames = "the first frame is taken of 2 images with several: a, b"
    assert survey.words(None) == [frames]
    assert survey.words(84) == [
        frames,
        "1 image of 4 smaller than data.size=84, the smallest of 32 x 32 pixels, are enlarged",
        "2 images of 4 not square, stretched to a square",
    ]


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
