"""Text of others (names of folders, errors, fields of files) as a terminal or a file may show it."""

from __future__ import annotations

import sys
from unicodedata import category

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
# Control characters (escape sequences begin with one), halves of surrogate pairs (bytes of a file's name that are no
# text), separators of lines and paragraphs.
UNSAFE = ("Cc", "Cs", "Zl", "Zp")
# Marks that turn the direction of what follows: a name with one can look like another.
DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    """A text with each character that would act on a terminal, or that cannot be written, replaced; lines stay."""
    return "".join(letter if letter == "\n" or is_safe(letter) else UNKNOWN for letter in text)


def one_line(text: str) -> str:
    """A visible text in one line: line breaks and tabs are blanks."""
    return visible(" ".join(text.split("\n")).replace("\r", " ").replace("\t", " "))


def described(error: BaseException) -> str:
    """The kind of an error and its message, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def say(text: object) -> None:
    """Tell whoever typed the command, on stderr."""
    print(f"metarun: {visible(str(text))}", file=sys.stderr, flush=True)


def is_safe(letter: str) -> bool:
    """Whether a character is only shown; ASCII first, which most is."""
    if letter.isascii():
        return letter.isprintable()
    return category(letter) not in UNSAFE and letter not in DIRECTION
