"""Render the tables of the documents from the records: `make tables`.

A document marks the place of a table by `<!-- table: NAME -->` and `<!-- end -->`; what lies between is replaced. What
a paper prints for a record is taken anew from its configuration first, so that both say the same.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from metarun.files import write_text
from scripts.results.configuration import composed
from scripts.results.definitions import TABLES
from scripts.results.published import published
from scripts.results.records import RESULTS, Record, load, write
from scripts.results.tables import Records, by_name, render

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "REPLICATION.md", "docs/results.md")
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(text: str, records: Records) -> str:
    """A document with its tables rendered anew.

    Raises:
        KeyError: it names a table or a table a record that there is none of.
    """

    def rendered(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise KeyError(f"there is no table {match[2]}; there are {', '.join(TABLES)}")
        return f"{match[1]}{render(TABLES[match[2]], records)}\n{match[3]}"

    return MARKED.sub(rendered, text)


@cache
def paper_of(algo: str, data: str, experiment: str | None) -> list[dict[str, Any]]:
    """The published figures that conf has for an algorithm on a data set, or for an experiment."""
    choices = [f"algo={algo}", f"data={data}"] if experiment is None else [f"experiment={experiment}"]
    return composed(choices).get("paper") or []


def with_published(record: Record) -> Record:
    """A record with what its paper prints, as conf says today."""
    paper = paper_of(record.algo, record.data, record.experiment)
    return dataclasses.replace(record, published=published(paper, record.config or {"data": {}}))


def refresh(records: Iterable[Record], folder: Path = RESULTS) -> list[Record]:
    """The records, those written anew whose published figure has changed."""
    fresh = []
    for record in records:
        new = with_published(record)
        if new != record:
            print(f"{record.target}/{record.cell}: published {record.published} is now {new.published}")
            write(new, folder)
        fresh.append(new)
    return fresh


def main() -> None:
    """Write every document's tables."""
    records = by_name(refresh(load()))
    for name in DOCUMENTS:
        path = ROOT / name
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            new = with_tables(text, records)
            if new != text:
                write_text(path, new)
                print(f"{name}: written")


if __name__ == "__main__":
    main()
