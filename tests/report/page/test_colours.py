"""The colours of the page and of all pictures: text stands out, and nobody needs colour vision to tell lines apart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from colours import SIGHT, contrast, nearest

from metarun.report import style, sweep_figures
from metarun.report.page import build
from metarun.report.page.figures import COLOURS, THEMES

CSS = (Path(build.FILES) / "page.css").read_text()
PAIRS = {name: pair for name, *pair in re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", CSS)}
TEXTS = ("ink", "muted", "accent", "good", "bad", "warn")
PLACE = {"light": 0, "dark": 1}


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("behind", ["paper", "raised"])
def test_text_of_the_page_has_a_contrast_of_at_least_four_and_a_half(text, behind, theme):
    assert contrast(PAIRS[text][PLACE[theme]], PAIRS[behind][PLACE[theme]]) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
def test_controls_and_plots_stand_out_too(theme):
    paper = PAIRS["paper"][PLACE[theme]]
    assert contrast(PAIRS["edge"][PLACE[theme]], paper) >= 3
    assert [colour for colour in COLOURS[theme] if contrast(colour, paper) < 3] == []


def test_every_colour_of_the_page_is_one_of_these():
    rest = re.sub(r"light-dark\([^)]*\)", "", CSS)
    assert re.findall(r"#\w{3,8}\b(?=[;, ])", rest) == [] and set(TEXTS) < set(PAIRS)


def test_lines_and_text_of_pictures_stand_out_on_white():
    lines = [style.GREY, style.INK, *(color for color, _ in sweep_figures.LOOKS)]
    assert [colour for colour in lines if contrast(colour, "#ffffff") < 3] == []
    assert contrast(style.INK, "#ffffff") >= 4.5


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize(
    "colours", [*COLOURS.values(), [color for color, _ in sweep_figures.LOOKS]], ids=[*COLOURS, "pictures"]
)
def test_colours_are_apart_for_all_eyes(colours, sight):
    assert nearest(list(colours), sight) > 11


def test_eyes_without_cones_for_red_or_green_do_not_tell_some_colours_apart():
    """The measure can fail: these two are 100 apart for eyes with all cones."""
    assert nearest(["#d03030", "#6b7a00"], "deuteranopia") < 11 < nearest(["#d03030", "#6b7a00"], "all cones")
