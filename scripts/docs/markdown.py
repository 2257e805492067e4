"""Markdown out of plain text: the text of docstrings and comments, tables, blocks of code."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

# Names of Greek letters as docstrings write them. Only whole names count: `theta_1`, but not `log_sigma`.
GREEK = {
    **{"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "zeta": "ζ", "eta": "η", "theta": "θ"},
    **{"kappa": "κ", "lambda": "λ", "mu": "μ", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ", "phi": "φ", "psi": "ψ"},
    **{"Phi": "Φ", "Lambda": "Λ", "Lambda0": "Λ0", "grad": "∇"},
}
SIGNS = {"<-": "←", "->": "→", "||": "‖", "+-": "±", "<=": "≤", ">=": "≥", "/=": "≠", "~=": "≈"}
# A subscript counts too (`h_alpha`, `min_theta`), an identifier of several words does not (`log_sigma`).
_BEFORE = r"(?:(?<![A-Za-z_0-9.])|(?<=\b[A-Za-z]_)|(?<=\bmin_)|(?<=\bgrad_))"
_NAMES = re.compile(rf"{_BEFORE}({'|'.join(sorted(GREEK, key=len, reverse=True))})(?![A-Za-z0-9])")
_SIGNS = re.compile("|".join(map(re.escape, SIGNS)))
_LINKS = re.compile(
    r"arXiv (?P<arxiv>\d{4}\.\d{4,5})|doi (?P<doi>10\.\d+/[^\s,;]+)|(?P<host>github:? )(?P<repo>[\w.-]+/[\w.-]*\w)"
)


def greek(text: str) -> str:
    """Names of Greek letters and arrows as the signs themselves: `theta <- theta` is `θ ← θ`."""
    text = _NAMES.sub(lambda match: GREEK[match[1]], text)
    return _SIGNS.sub(lambda match: SIGNS[match[0]], text)


def prose(text: str) -> str:
    """One line of plain text as Markdown: nothing is emphasised by accident, papers and repositories are links."""
    pieces = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(piece if piece.startswith("`") else _linked(piece) for piece in pieces)


def _linked(text: str) -> str:
    done, parts = 0, []
    for match in _LINKS.finditer(text):
        parts += [escaped(greek(text[done : match.start()])), _link(match)]
        done = match.end()
    return "".join(parts) + escaped(greek(text[done:]))


def _link(match: re.Match[str]) -> str:
    if match["arxiv"]:
        return f"[arXiv {match['arxiv']}](https://arxiv.org/abs/{match['arxiv']})"
    if match["doi"]:
        return f"[doi {match['doi']}](https://doi.org/{match['doi']})"
    return f"[github {match['repo']}](https://github.com/{match['repo']})"


# What Markdown would read as more than itself; those that it takes no backslash before are named.
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "$": "&#36;"}


def escaped(text: str) -> str:
    return re.sub(r"([\\*_\[\]])|([&<>|$])", lambda m: f"\\{m[1]}" if m[1] else _ENTITIES[m[2]], text)


def code(text: str) -> str:
    """A piece of code within a line, also one that has a backtick or a bar of a table's column."""
    text = " ".join(text.split())
    if "|" in text:  # a backslash in a table's code would be shown
        return f"<code>{''.join(_ENTITIES.get(sign, sign) for sign in text)}</code>"
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def fenced(text: str, language: str = "text", title: str = "") -> str:
    head = f'{language} title="{title}"' if title else language
    return f"```{head}\n{text.rstrip()}\n```\n"


def shell(command: str) -> str:
    """A command as a block, broken over lines where it is long."""
    lines = textwrap.wrap(command, 84, break_long_words=False, break_on_hyphens=False)
    return fenced(" \\\n    ".join(lines), "bash")


def folded(summary: str, body: str) -> str:
    """A block that opens on a click."""
    indented = "\n".join(f"    {line}" if line else "" for line in body.rstrip().splitlines())
    return f'??? note "{summary}"\n\n{indented}\n'


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def relative(page: str, text: str) -> str:
    """Links to `/PAGE.md`, from the root of docs/, as seen from a page: generated text need not know where it lies."""
    up = "../" * page.count("/")
    return re.sub(r"(?<=\]\()/(?=[\w/.#-]+\))", up, text)


def bullets(lines: Iterable[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def paragraphs(*parts: str) -> str:
    """Blocks with one blank line between two; empty ones are left out."""
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"
