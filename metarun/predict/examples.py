"""Pictures as they are named on the command line: folders of classes, tables of path and label, files, patterns."""

from __future__ import annotations

import csv
import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from metarun.images.files import Folder, is_image
from metarun.images.notices import counted
from metarun.tasks import DataError

COLUMNS = ("path", "label")


class Picture(NamedTuple):
    """A picture that is named.

    Attributes:
        path: of its file.
        label: its class; None where nobody says it.
    """

    path: Path
    label: str | None = None


class Named(NamedTuple):
    """What a word of the command line names.

    Attributes:
        pictures: in sorted order, or in that of the table.
        notes: what was left out, for people.
    """

    pictures: list[Picture]
    notes: list[str]


def support(place: Path) -> Named:
    """The labelled pictures of a support set: `CLASS/PICTURE` in a folder, or a CSV of path and label.

    Raises:
        DataError: there are none, or they are of one class.
    """
    if not place.exists():
        raise DataError(f"--support must be a folder of classes or a CSV of path and label; {place} is not there")
    found = in_folder(place) if place.is_dir() else in_table(place)
    labelled = [picture for picture in found.pictures if picture.label is not None]
    if len({picture.label for picture in labelled}) < 2:
        raise DataError(
            f"--support={place} must hold pictures of at least two classes, as CLASS/PICTURE or as lines of path and "
            f"label; found {len(labelled)} pictures of {len({picture.label for picture in labelled})}"
        )
    return Named(labelled, found.notes)


def queries(words: Sequence[str]) -> Named:
    """The pictures to predict: files, folders (whose subfolders are labels), patterns, tables. Each counts once.

    Raises:
        DataError: a word names nothing.
    """
    pictures: dict[Path, Picture] = {}
    notes: list[str] = []
    for word in words:
        named = of_word(word)
        if not named.pictures:
            raise DataError(f"--query {word}: there are no pictures")
        for picture in named.pictures:
            pictures.setdefault(picture.path.resolve(), picture)
        notes += named.notes
    return Named(list(pictures.values()), notes)


def of_word(word: str) -> Named:
    """What one word after `--query` names.

    Raises:
        DataError: nothing.
    """
    path = Path(word)
    if path.is_dir():
        return in_folder(path)
    if path.suffix.lower() == ".csv" and path.is_file():
        return in_table(path)
    if path.exists():
        return Named([Picture(path)], [])
    matches = sorted(map(Path, glob.glob(word, recursive=True)))
    files = [match for match in matches if match.is_file() and is_image(match.name)]
    if not files:
        raise DataError(f"--query must name pictures that are there; got {word}")
    return Named([Picture(file) for file in files], [])


def in_folder(path: Path) -> Named:
    """The pictures directly in a folder, and in its subfolders, whose names are labels."""
    names = Folder(path).names()
    shallow = [name for name in names if name.count("/") < 2]
    taken = [name for name in shallow if is_image(name)]
    pictures = [Picture(path / name, name.partition("/")[0] if "/" in name else None) for name in taken]
    left_out = {"no picture by its suffix": len(shallow) - len(taken), "too deep": len(names) - len(shallow)}
    notes = [f"{path}: {counted(number, 'file')} skipped, {why}" for why, number in left_out.items() if number]
    return Named(pictures, notes)


def in_table(path: Path) -> Named:
    """The pictures of a CSV with the columns path (from the CSV's own folder) and label, which may be empty.

    Raises:
        DataError: it is no such table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return Named(list(_rows(csv.DictReader(file), path)), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV: {error}") from error


def _rows(table: csv.DictReader[str], path: Path) -> Iterator[Picture]:
    missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
    if missing:
        raise DataError(f"{path} must have the columns path and label in its first line; it has no {missing[0]}")
    for row in table:
        if not row["path"]:
            raise DataError(f"{path}, line {table.line_num}: there is no path")
        yield Picture(path.parent / row["path"], row["label"] or None)
