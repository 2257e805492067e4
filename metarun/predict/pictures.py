"""The support set beside the queries with their answers: a PNG, and a page that opens without a network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from metarun.files import write_text
from metarun.plain_text import one_line
from metarun.predict.answers import REFUSED, Answer, Answers
from metarun.report.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

    from metarun.predict.session import Session

COLUMNS = 8
MOST = 64  # queries in the PNG; the page has all
SIDE = 112  # pixels of a picture on the page, shown at half that
# Okabe and Ito's, one for each class in turn; the label beside it says which.
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#D55E00", "#56B4E9", "#B8A800")


def colour_of(label: str | None, classes: Sequence[str]) -> str:
    """A class's colour; grey for a refusal."""
    return GREY if label is None else COLOURS[list(classes).index(label) % len(COLOURS)]


def thumbnail(path: Path) -> Image.Image:
    """A picture as a person sees it, at most `SIDE` pixels wide and high.

    Raises:
        OSError: it cannot be read.
    """
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        upright.thumbnail((SIDE, SIDE))
        laid = Image.new("RGBA", upright.size, "white")
        laid.alpha_composite(upright.convert("RGBA"))
        return laid.convert("RGB")


# --------------------------------------------------------------------------------------------------------- PNG


def draw(path: Path, session: Session) -> None:
    """Draw a row of support pictures for each class and the queries below.

    Raises:
        OSError: the file cannot be written.
    """
    classes, answers = session.answers.classes, session.answers.answers[:MOST]
    groups = {name: [p.path for p in session.support.pictures if str(p.label) == name] for name in classes}
    rows = -(-len(answers) // COLUMNS)
    heights = [1.15 * len(groups) + 0.3, 1.45 * rows + 0.3]
    with new_figure(path, (1.25 * COLUMNS, sum(heights))) as figure:
        parts: Any = figure.subfigures(2, 1, height_ratios=heights)
        above, below = parts
        _draw_support(above, groups, classes)
        more = len(session.answers.answers) - len(answers)
        title = f"queries (the first {MOST}; {more} more on the page)" if more > 0 else "queries"
        below.suptitle(title, fontsize=10, color=INK)
        axes = below.subplots(rows, COLUMNS, squeeze=False)
        for axis, answer in zip(axes.flat, answers, strict=False):
            axis.imshow(thumbnail(answer.path))
            axis.set_title(plain(_caption(answer, classes)), fontsize=7, color=INK)
            _frame(axis, colour_of(answer.label, classes), dashed=answer.label is None)
        for axis in axes.flat[len(answers) :]:
            axis.set_axis_off()


def _draw_support(figure: SubFigure, groups: dict[str, list[Path]], classes: Sequence[str]) -> None:
    figure.suptitle("support set", fontsize=10, color=INK)
    axes = figure.subplots(len(groups), COLUMNS, squeeze=False)
    for row, (name, paths) in zip(axes, groups.items(), strict=True):
        for axis, file in zip(row, paths, strict=False):
            axis.imshow(thumbnail(file))
            _frame(axis, colour_of(name, classes))
        for axis in row[len(paths) :]:
            axis.set_axis_off()
        more = f" (and {len(paths) - COLUMNS} more)" if len(paths) > COLUMNS else ""
        row[0].set_title(plain(_short(name) + more), fontsize=8, loc="left", color=INK)


def _frame(axis: Any, colour: str, dashed: bool = False) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(edgecolor=colour, linewidth=2.5, linestyle="--" if dashed else "-")


def _caption(answer: Answer, classes: Sequence[str]) -> str:
    """The answer with its probability; below it, where it is wrong, the truth."""
    said = f"{_short(answer.label or REFUSED)}  {max(answer.probabilities):.2f}"
    if answer.truth is None or answer.truth == answer.label or (answer.label is None and answer.truth not in classes):
        return said
    return f"{said}\n(is {_short(answer.truth)})"


def _short(name: str) -> str:
    name = one_line(name)
    return name if len(name) <= 18 else f"{name[:17]}…"


# -------------------------------------------------------------------------------------------------------- page


def write_page(path: Path, session: Session, title: str) -> None:
    """Write the page: support set, every query with the probability of each class, and a confusion matrix.

    Args:
        path: the file.
        session: what was asked and answered.
        title: of the page.

    Raises:
        OSError: a picture cannot be read, or the page not written.
    """
    classes = session.answers.classes
    groups = [
        f"<section><h3>{_swatch(colour_of(name, classes))}{_text(name)}</h3><div class=row>"
        + "".join(_image(p.path) for p in session.support.pictures if str(p.label) == name)
        + "</div></section>"
        for name in classes
    ]
    queries = [_query(answer, classes) for answer in session.answers.answers]
    sentences = [str(session.refusal)] if session.refusal else []
    if accuracy := session.answers.accuracy():
        sentences.insert(0, f"accuracy: {accuracy}")
    write_text(
        path,
        Template(PAGE).substitute(
            title=_text(title),
            about="".join(f"<p>{_text(sentence)}</p>" for sentence in [*sentences, *session.notes]),
            support="".join(groups),
            queries="".join(queries),
            confusion=_confusion(session.answers) if accuracy else "",
        ),
    )


def _query(answer: Answer, classes: Sequence[str]) -> str:
    bars = "".join(
        f"<li><span class=bar style='width:{100 * p:.1f}%;background:{colour_of(name, classes)}'></span>"
        f"<span>{_text(name)} {p:.2f}</span></li>"
        for p, name in sorted(zip(answer.probabilities, classes, strict=True), reverse=True)[:5]
    )
    truth = "" if answer.truth is None else f"<small>is {_text(answer.truth)}</small>"
    wrong = " wrong" if answer.truth in classes and answer.truth != answer.label else ""
    refused = " refused" if answer.label is None else ""
    return (
        f"<figure class='query{wrong}{refused}' style='border-color:{colour_of(answer.label, classes)}'>"
        f"{_image(answer.path)}<figcaption><b>{_text(answer.label or REFUSED)}</b>{truth}"
        f"<small class=path>{_text(answer.path.name)}</small><ul>{bars}</ul></figcaption></figure>"
    )


def _confusion(answers: Answers) -> str:
    columns, rows = answers.confusion()
    head = "".join(f"<th>{_text(name)}</th>" for name in columns)
    body = "".join(
        f"<tr><th>{_text(name)}</th>{''.join(f'<td>{count}</td>' for count in row)}</tr>"
        for name, row in zip(answers.classes, rows, strict=True)
    )
    return (
        "<h2>Confusion matrix</h2><p>A row for each true class, a column for each answer.</p><div class=wide><table>"
        f"<tr><th></th>{head}</tr>{body}</table></div>"
    )


def _image(path: Path) -> str:
    buffer = io.BytesIO()
    thumbnail(path).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"<img alt='{_text(path.name)}' title='{_text(str(path))}' src='data:image/png;base64,{data}'>"


def _swatch(colour: str) -> str:
    return f"<span class=swatch style='background:{colour}'></span>"


def _text(text: str) -> str:
    return html.escape(one_line(text), quote=True)


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --line: #ccc; --soft: #555; }
@media (prefers-color-scheme: dark) { :root { --ink: #eee; --paper: #161616; --line: #444; --soft: #aaa; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 72rem; padding: 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } h3 { font-size: 1rem; margin: 1rem 0 .3rem; }
img { width: 56px; height: 56px; object-fit: contain; background: #fff; image-rendering: auto; }
.row { display: flex; flex-wrap: wrap; gap: 6px; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 2px; }
.queries { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: 10px; }
.query { margin: 0; padding: 8px; border: 2px solid; border-radius: 6px; display: flex; gap: 8px; min-width: 0; }
.query.refused { border-style: dashed; }
.query.wrong b::after { content: " \\2717"; }
figcaption { min-width: 0; flex: 1; overflow-wrap: anywhere; }
small { display: block; color: var(--soft); font-size: .8rem; }
ul { list-style: none; margin: .3rem 0 0; padding: 0; font-size: .8rem; }
li { position: relative; padding: 1px 0; }
.bar { display: block; height: 4px; border-radius: 2px; min-width: 1px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th, td { border: 1px solid var(--line); padding: .2rem .5rem; text-align: right; font-variant-numeric: tabular-nums; }
</style></head><body>
<h1>$title</h1>
$about
<h2>Support set</h2>
$support
<h2>Queries</h2>
<div class="queries">$queries</div>
$confusion
</body></html>
"""
