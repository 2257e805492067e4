"""The errors that docs/faq.md explains are errors of the program, in its words."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import NamedTuple

import pytest
from commands import ROOT

PAGE = (ROOT / "docs" / "faq.md").read_text()
QUOTED = [text for line in re.findall(r"^#### (.*)$", PAGE, re.MULTILINE) for text in re.findall(r"`([^`]+)`", line)]
WILD = "\0"  # in the place of what is filled in
GENERIC = ("must be", "got")  # of every refusal
SAYS = 7  # letters of its own at least, beside what is filled in and what is generic
SHARE = 0.35  # of a text, which is the program's own at least


class Template(NamedTuple):
    """A text of the package: its pieces between what is filled in, the longest of them, its own letters."""

    pattern: re.Pattern[str]
    longest: str
    letters: int


def template_of(text: str) -> Template | None:
    """None: it says too little to be known by."""
    pieces = text.split(WILD)
    own = "".join(pieces)
    for words in GENERIC:
        own = own.replace(words, "")
    if len(re.sub(r"\W", "", own)) < SAYS:
        return None
    return Template(re.compile("(.*)".join(map(re.escape, pieces)), re.DOTALL), max(pieces, key=len), len(own))


@cache
def templates() -> list[Template]:
    """The texts of the package, of a text of several lines its first."""
    found: set[str] = set()
    for path in [*(ROOT / "metarun").rglob("*.py"), *(ROOT / "hydra_plugins").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(str(v.value) if isinstance(v, ast.Constant) else WILD for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return [template for text in found if (template := template_of(text.split("\n")[0]))]


def is_said(text: str) -> bool:
    """Whether the program says the text: most of it, but for what is filled in, is its own words."""
    required = re.fullmatch(r"[\w.]+ must be (.+); got .*", text)
    own = max(letters(text), letters(required[1]) if required else 0)
    return own >= SHARE * len(required[1] if required else text)


def letters(text: str, deep: int = 2) -> int:
    """How many letters of a text a template gives, with those of templates that fill it in."""
    most = 0
    for template in templates():
        if template.longest in text and (match := template.pattern.fullmatch(text)):
            inner = sum(letters(group, deep - 1) for group in match.groups()) if deep else 0
            most = max(most, template.letters + inner)
    return most


def test_there_are_enough():
    assert len(QUOTED) >= 30


@pytest.mark.parametrize("text", QUOTED)
def test_the_program_says_it(text):
    assert is_said(text), f"nothing in metarun/ says: {text}"


@pytest.mark.parametrize("text", ("there is no such thing as a free lunch", "run.seed must be a prime number; got 4"))
def test_what_the_program_does_not_say_is_found_out(text):
    assert not is_said(text)
