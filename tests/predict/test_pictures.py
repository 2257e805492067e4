"""What is drawn: colours by class, pictures as a person sees them, no more of them than fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from coloured import picture
from PIL import Image

from metarun.predict.answers import Answer, Answers
from metarun.predict.examples import Picture
from metarun.predict.pictures import COLOURS, MOST, SIDE, colour_of, draw, thumbnail, write_page
from metarun.predict.session import Prepared, Session
from metarun.report.style import GREY


def test_a_class_has_its_colour_and_a_refusal_is_grey():
    classes = [str(number) for number in range(9)]
    assert [colour_of(name, classes) for name in ("0", "1", "7")] == [COLOURS[0], COLOURS[1], COLOURS[0]]
    assert colour_of(None, classes) == GREY and GREY not in COLOURS


def test_pictures_are_upright_small_and_on_white(tmp_path):
    image = Image.new("RGBA", (400, 200), (0, 0, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6  # a camera held on its side
    image.save(tmp_path / "a.png", exif=exif)
    shown = thumbnail(tmp_path / "a.png")
    assert shown.size == (SIDE // 2, SIDE) and shown.getpixel((5, 5)) == (255, 255, 255)


@pytest.fixture
def many(tmp_path) -> Session:
    """More queries than the PNG has, two classes."""
    paths = [picture(tmp_path / f"{number}.png", "red", number) for number in range(MOST + 3)]
    answers = [
        Answer(path, None if n == 1 else "a", [0.75, 0.25], "b" if n < 3 else None) for n, path in enumerate(paths)
    ]
    support = [Picture(paths[0], "a"), *(Picture(path, "b") for path in paths[:10])]
    known, asked = (Prepared(list(group), torch.empty(0), []) for group in (support, map(Picture, paths)))
    return Session(known, asked, Answers(["a", "b"], answers), None, ["a note"])


def test_the_picture_has_as_many_as_fit_and_the_page_has_all(many, tmp_path):
    draw(tmp_path / "p.png", many)
    width, height = Image.open(tmp_path / "p.png").size
    assert width == 1500 and height < 2500
    write_page(tmp_path / "p.html", many, "Title")
    page = (tmp_path / "p.html").read_text()
    assert page.count("<figure") == MOST + 3 and page.count("<img") == MOST + 3 + 11
    assert page.count(" wrong") == 3 and page.count(" refused") == 1 and "<p>a note</p>" in page


def test_a_picture_that_cannot_be_shown_leaves_no_file(many, tmp_path):
    Path(many.answers.answers[0].path).unlink()
    with pytest.raises(OSError):
        draw(tmp_path / "p.png", many)
    assert not (tmp_path / "p.png").exists()
