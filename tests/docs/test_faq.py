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
SAYS = 8  # letters of its own at least, beside what is filled in and what is generic
SHARE = 0.25  # of a text, which are the program's own


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
    """Whether a template of the package gives the text, or the WHAT of `KEY must be WHAT; got VALUE`."""
    required = re.fullmatch(r"[\w.]+ must be (.+); got .*", text)
    return is_given(text) or (required is not None and is_given(required[1]))


def is_given(text: str) -> bool:
    return any(
        template.longest in text and template.pattern.fullmatch(text) and template.letters >= SHARE * len(text)
        for template in templates()
    )


def test_there_are_enough():
    assert len(QUOTED) >= 30


@pytest.mark.parametrize("text", QUOTED)
def test_the_program_says_it(text):
    assert is_said(text), f"nothing in metarun/ says: {text}"


@pytest.mark.parametrize("text", ("there is no such thing as a free lunch", "run.seed must be a prime number; got 4"))
def test_what_the_program_does_not_say_is_found_out(text):
    assert not is_said(text)
