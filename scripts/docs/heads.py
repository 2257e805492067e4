"""The head of an algorithm's module, read into its parts and written as Markdown.

A head is the module's docstring: a line that says what the algorithm is, the papers and their code, the inner and the
outer problem with their equations (indented), a table of symbols, remarks, and the differences from the paper.
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from scripts.docs.markdown import bullets, code, fenced, greek, paragraphs, prose, table

ROOT = Path(__file__).parents[2]
EQUATION = 4  # columns by which equations are indented; prose that goes on after them has fewer
GAP = re.compile(r"(?<=[:,\w)]) {3,}(?=\S)")  # between a label and an equation on its line
PROBLEM = re.compile(r"(Inner|Outer) (problem|step)\b")


@dataclass
class Head:
    """The parts of a head.

    Attributes:
        title: its first line.
        paper: paragraphs before the first equation.
        problem: paragraphs with the inner and the outer problem.
        symbols: rows of the table of symbols, (symbol, code, meaning).
        remarks: paragraphs after it.
        differences: (heading, items).
    """

    title: str
    paper: list[str] = field(default_factory=list)
    problem: list[str] = field(default_factory=list)
    symbols: list[tuple[str, str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    differences: tuple[str, list[str]] = ("Differences from the paper", [])


def docstring(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text()))
    if text is None:
        raise ValueError(f"{path} has no docstring")
    return text


def read_head(path: Path) -> Head:
    """The head of a module.

    Raises:
        ValueError: it has none, or its table of symbols is not aligned.
    """
    title, *blocks = re.split(r"\n\s*\n", docstring(path))
    head = Head(title)
    for block in blocks:
        first = block.splitlines()[0].split()
        if first[0] == "symbol":
            head.symbols = _symbols(block)
        elif block.startswith("Differences from"):
            head.differences = _differences(block)
        elif head.symbols or head.differences[1]:
            head.remarks.append(block)
        elif head.problem or PROBLEM.search(block) or _has_equations(block):
            head.problem.append(block)
        else:
            head.paper.append(block)
    return head


def _has_equations(block: str) -> bool:
    return any(line.startswith(" " * EQUATION) for line in block.splitlines())


def _symbols(block: str) -> list[tuple[str, str, str]]:
    """Rows of a table whose columns begin where the words of its first line do."""
    lines = textwrap.dedent(block).splitlines()
    second, third = lines[0].index("code"), lines[0].index("shape")
    rows: list[list[str]] = []
    for line in lines[1:]:
        if any(line[edge - 1 : edge].strip() for edge in (second, third)):
            raise ValueError(f"this line of the table of symbols is not aligned: {line}")
        cells = [line[:second].strip(), line[second:third].strip(), line[third:].strip()]
        if cells[0] or (cells[1] and not rows[-1][1].endswith(",")):
            rows.append(cells)
        else:
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
    return [(row[0], row[1], row[2]) for row in rows]


def _differences(block: str) -> tuple[str, list[str]]:
    heading, *lines = block.splitlines()
    items: list[str] = []
    for line in lines:
        text = line.strip()
        if text.startswith("- "):
            items.append(text[2:])
        elif items:
            items[-1] += f" {text}"
        else:
            raise ValueError(f"this line of the differences belongs to no item: {line}")
    return heading, items


# ------------------------------------------------------------------------------------------------------ Markdown


def rendered(block: str) -> str:
    """A paragraph with equations: what is indented is a block of code, with Greek letters, the rest is prose."""
    parts: list[str] = []
    text: list[str] = []
    equations: list[str] = []

    def flush(lines: list[str]) -> None:
        if lines:
            parts.append(_equations(lines) if lines is equations else _label(" ".join(lines)))
        lines.clear()

    for line in block.splitlines():
        gap = GAP.search(line) if not line.startswith(" ") else None
        if gap:
            flush(equations)
            text.append(line[: gap.start()])
            flush(text)
            equations.append(" " * gap.end() + line[gap.end() :])
        elif line.startswith(" " * EQUATION):
            flush(text)
            equations.append(line)
        else:
            flush(equations)
            if PROBLEM.match(line):
                flush(text)
            text.append(line.strip())
    flush(text)
    flush(equations)
    return paragraphs(*parts)


def _label(text: str) -> str:
    """A line of prose; the words Inner problem and Outer problem that begin it are bold."""
    match = PROBLEM.match(text)
    return f"**{match[0]}**{prose(text[match.end() :])}" if match else prose(text)


def _equations(lines: list[str]) -> str:
    text = greek(textwrap.dedent("\n".join(lines)))
    return fenced(re.sub(r" {3,}(?=\((eqs?\.|section|[a-z]\)|MSL|LSLR))", "    ", text))


def symbol_table(head: Head) -> str:
    """The table of symbols; empty where there is none."""
    if not head.symbols:
        return ""
    rows = [(_symbol(symbol), _code(place), prose(meaning)) for symbol, place, meaning in head.symbols]
    return table(["Symbol", "In the code", "Shape, unit, meaning"], rows)


def _symbol(text: str) -> str:
    return f"*{prose(text)}*" if text else ""


def _code(text: str) -> str:
    """The column of code, where a head also writes words (`head's scores`)."""
    return code(text.replace("`", "")) if text else ""


def difference_list(head: Head) -> str:
    heading, items = head.differences
    note = re.search(r"\((.*)\)$", heading)
    return paragraphs(prose(note[1][0].upper() + note[1][1:]) + "." if note else "", bullets(map(prose, items)))
