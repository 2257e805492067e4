"""A reader of HTML for tests: the elements of a page with their attributes and texts."""

from __future__ import annotations

from html.parser import HTMLParser


class Elements(HTMLParser):
    """Every element with its attributes, and the text that directly follows its start.

    Attributes:
        tags: name and attributes of each element, in the order of their starts.
        texts: of each of them.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.texts.append("")
        self.open = True

    def handle_endtag(self, tag):
        self.open = False

    def handle_data(self, data):
        if self.open:
            self.texts[-1] += data

    def text(self, tag: str, **attributes: str) -> str:
        """The text of the one element of that name with these attributes."""
        (text,) = (
            text
            for (name, values), text in zip(self.tags, self.texts, strict=True)
            if name == tag and attributes.items() <= values.items()
        )
        return text


class Tables(HTMLParser):
    """The texts of the cells of a table's markup, and their attributes.

    Attributes:
        rows: the text of each cell, row by row.
        attributes: of each cell, row by row.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[str]] = []
        self.attributes: list[list[dict[str, str | None]]] = []
        self.in_cell = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
            self.attributes.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
            self.attributes[-1].append(dict(attributes))
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("th", "td")

    def handle_data(self, data):
        if self.in_cell:
            self.rows[-1][-1] += data

    def column(self, heading: str) -> list[str]:
        """The texts under a heading."""
        return [row[self.rows[0].index(heading)] for row in self.rows[1:]]

    def orders(self, heading: str) -> list[str | None]:
        """The values that the cells under a heading are sorted by."""
        return [cells[self.rows[0].index(heading)].get("data-order") for cells in self.attributes[1:]]
