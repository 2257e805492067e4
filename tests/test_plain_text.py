"""Text of others acts neither on a terminal nor on the lines of a file."""

from __future__ import annotations

import os
import unicodedata

import pytest

from metarun.plain_text import UNKNOWN, one_line, visible

SAFE = ["", "maml_seed=0", "é ü 漢字 → ± †", "a b\u00a0c", "😀", "e\u0301"]
ACTING = {
    "an escape sequence": ("a\x1b[2Jb", f"a{UNKNOWN}[2Jb"),
    "one of a single character": ("\x9b31m", f"{UNKNOWN}31m"),
    "a bell and a backspace": ("\a\b", UNKNOWN * 2),
    "delete and null": ("\x7f\0", UNKNOWN * 2),
    "a name that is no text": (os.fsdecode(b"a\xff"), f"a{UNKNOWN}"),
    "letters turned round": ("gpj\u202eexe", f"gpj{UNKNOWN}exe"),
    "a line separator": ("a\u2028b\u2029", f"a{UNKNOWN}b{UNKNOWN}"),
}


@pytest.mark.parametrize("text", SAFE)
def test_what_is_only_shown_stays(text):
    assert visible(text) == one_line(text) == text


@pytest.mark.parametrize(("text", "wanted"), ACTING.values(), ids=ACTING)
def test_what_acts_on_a_terminal_is_replaced(text, wanted):
    assert visible(text) == one_line(text) == wanted


def test_no_control_character_is_left_but_the_end_of_a_line():
    every = "".join(map(chr, range(0x3000)))
    left = {letter for letter in visible(every) if unicodedata.category(letter) in ("Cc", "Zl", "Zp")}
    assert left == {"\n"}


def test_lines_and_tabs_become_blanks():
    assert visible("a\nb") == "a\nb"
    assert one_line("a\nb\tc\r\nd") == "a b c  d"
