"""What a learner answers to each query, and how good it is where the classes of queries are known."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from metarun.files import write_json, write_text

REFUSED = "(none of them)"


@dataclass(frozen=True)
class Answer:
    """The answer to one query.

    Attributes:
        path: of the picture.
        label: the most probable class; None: it is refused, being far from every class.
        probabilities: of each class, in the order of `Answers.classes`.
        truth: the picture's class, if it is known.
    """

    path: Path
    label: str | None
    probabilities: Sequence[float]
    truth: str | None = None


class Share(NamedTuple):
    """A share of right answers with its 95 % interval (Wilson 1927, without correction for continuity).

    Attributes:
        right, of: counts.
        low, high: the interval's ends, from 0 to 1.
    """

    right: int
    of: int
    low: float
    high: float

    @classmethod
    def over(cls, right: int, of: int) -> Share:
        """The share `right / of`, of at least one."""
        z = 1.959963984540054
        centre = (right + z * z / 2) / (of + z * z)
        half = z / (of + z * z) * math.sqrt(right * (of - right) / of + z * z / 4)
        return cls(right, of, max(0.0, centre - half), min(1.0, centre + half))

    def __str__(self) -> str:
        return (
            f"{self.right} of {self.of} ({100 * self.right / self.of:.1f} %, 95 % interval {100 * self.low:.1f} to "
            f"{100 * self.high:.1f} %)"
        )


@dataclass(frozen=True)
class Answers:
    """The answers to all queries.

    Attributes:
        classes: of the support set.
        answers: in the order of the queries.
    """

    classes: Sequence[str]
    answers: Sequence[Answer]

    @property
    def known(self) -> list[Answer]:
        """Answers to queries that are known to be of a class of the support set."""
        return [answer for answer in self.answers if answer.truth in self.classes]

    @property
    def strangers(self) -> list[Answer]:
        """Answers to queries that are known to be of another class."""
        return [answer for answer in self.answers if answer.truth is not None and answer.truth not in self.classes]

    def accuracy(self) -> Share | None:
        """The share of queries of known classes that are answered right; a refusal is not. None: there are none."""
        known = self.known
        return Share.over(sum(a.label == a.truth for a in known), len(known)) if known else None

    def refused_strangers(self) -> Share | None:
        """The share of queries of other classes that are refused. None: there are none."""
        strangers = self.strangers
        return Share.over(sum(a.label is None for a in strangers), len(strangers)) if strangers else None

    def confusion(self) -> tuple[list[str], list[list[int]]]:
        """Columns (answers), and a row of counts for each class of the support set."""
        refusals = any(answer.label is None for answer in self.answers)
        columns = [*self.classes, *([REFUSED] if refusals else [])]
        rows = []
        for truth in self.classes:
            given = [answer.label or REFUSED for answer in self.known if answer.truth == truth]
            rows.append([given.count(column) for column in columns])
        return columns, rows

    # ------------------------------------------------------------------------------------------------- files

    def write_csv(self, path: Path) -> None:
        """`path`, `label`, `truth` where it is known, and a column for each class's probability.

        Raises:
            OSError: it cannot be written.
        """
        truths = any(answer.truth is not None for answer in self.answers)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["path", "label", *(["truth"] if truths else []), *(f"p({name})" for name in self.classes)])
        for answer in self.answers:
            truth = [answer.truth or ""] if truths else []
            table.writerow([answer.path, answer.label or "", *truth, *(f"{p:.6g}" for p in answer.probabilities)])
        write_text(path, text.getvalue())

    def write_json(self, path: Path, about: dict[str, Any]) -> None:
        """The same as JSON, with what is known of the run and of all answers together.

        Args:
            path: the file.
            about: what stands before the answers.

        Raises:
            OSError: it cannot be written.
        """
        accuracy = self.accuracy()
        content = {
            **about,
            "classes": list(self.classes),
            "accuracy": None if accuracy is None else accuracy._asdict(),
            "predictions": [
                {
                    "path": str(answer.path),
                    "label": answer.label,
                    "truth": answer.truth,
                    "probabilities": dict(zip(self.classes, answer.probabilities, strict=True)),
                }
                for answer in self.answers
            ],
        }
        write_json(path, content)
