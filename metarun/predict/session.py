"""A trained learner adapts to a support set of pictures, and answers queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metarun.experiment.trained import AdaptedLearner, TrainedLearner
from metarun.images.preparation import Preparation
from metarun.layers.norm import batch_norms
from metarun.predict.answers import Answer, Answers
from metarun.predict.examples import Picture
from metarun.predict.refusal import Refusal, calibrate, score
from metarun.tasks import DataError

AT_ONCE = 256  # queries in one pass, where that changes nothing


@dataclass
class Prepared:
    """Pictures that could be read.

    Attributes:
        pictures: in their order.
        x: their inputs, `[n, C, H, W]`.
        skipped: why each of the others could not.
    """

    pictures: list[Picture]
    x: Tensor
    skipped: list[str]


@dataclass
class Session:
    """What came of one command.

    Attributes:
        support: the support set.
        queries: what was asked.
        answers: to the queries.
        refusal: how queries are refused; None: none is.
        notes: for people.
    """

    support: Prepared
    queries: Prepared
    answers: Answers
    refusal: Refusal | None
    notes: list[str] = field(default_factory=list)


def predict(
    trained: TrainedLearner,
    support: Sequence[Picture],
    queries: Sequence[Picture],
    reject: float | None = None,
    on_picture: Callable[[], object] = lambda: None,
) -> Session:
    """Adapt to labelled pictures and answer others.

    Args:
        trained: of `metarun.load`.
        support: labelled pictures, of at least two classes.
        queries: the others.
        reject: the share of queries of known classes that may be refused; None: none is.
        on_picture: called as each has been read.

    Raises:
        DataError: a class, or all queries, cannot be read; or there is no validation data to calibrate on.
        ValueError: the learner does not take so many classes, or no pictures.
        ArithmeticError: its predictions are not finite.
    """
    prepare = trained.preparation()
    known = prepared(support, prepare, on_picture)
    labels = [str(picture.label) for picture in known.pictures]
    if lost := {str(picture.label) for picture in support} - set(labels):
        raise DataError(f"no picture of the class {min(lost)} can be read: {known.skipped[0]}")
    asked = prepared(queries, prepare, on_picture)
    if not asked.pictures:
        raise DataError(f"no query can be read: {asked.skipped[0]}")
    adapted = trained.adapt(known.x, labels)
    refusal = None
    if reject is not None:
        counts = Counter(labels)
        refusal = calibrate(trained, reject, len(counts), round(len(labels) / len(counts)))
    together = any(norm.mode == "batch" for norm in batch_norms(trained.learner))
    answers = answered(adapted, asked, refusal, len(asked.pictures) if together else AT_ONCE)
    return Session(known, asked, answers, refusal, _notes_of_batch(together, len(asked.pictures)))


def prepared(pictures: Sequence[Picture], prepare: Preparation, on_picture: Callable[[], object]) -> Prepared:
    """Read pictures; one that cannot be read is named and left out."""
    read, inputs, skipped = [], [], []
    for picture in pictures:
        try:
            inputs.append(prepare(picture.path))
            read.append(picture)
        except DataError as error:
            skipped.append(str(error))
        on_picture()
    return Prepared(read, torch.cat(inputs) if inputs else torch.empty(0), skipped)


def answered(adapted: AdaptedLearner, asked: Prepared, refusal: Refusal | None, at_once: int) -> Answers:
    """The answers to queries, of which so many are asked at once."""
    answers: list[Answer] = []
    for start in range(0, len(asked.x), at_once):
        x = asked.x[start : start + at_once]
        probabilities = adapted.predict_proba(x).tolist()
        far = [False] * len(x) if refusal is None else (score(adapted(x)).double() < refusal.threshold).tolist()
        for picture, row, is_far in zip(asked.pictures[start:], probabilities, far, strict=False):
            best = str(adapted.classes[max(range(len(row)), key=row.__getitem__)])
            answers.append(Answer(picture.path, None if is_far else best, row, picture.label))
    return Answers([str(name) for name in adapted.classes], answers)


def said_of(preparation: Preparation) -> str:
    """How pictures are prepared, in words."""
    colours = "grey" if preparation.channels == 1 else "RGB"
    words = [f"{colours}, stretched to {preparation.height} x {preparation.width} pixels"]
    if preparation.inverted:
        words.append("light and dark exchanged (dark ink on white paper is expected)")
    if preparation.mean is not None:
        words.append("normalised with the run's mean and deviation")
    return ", ".join(words)


def _notes_of_batch(together: bool, number: int) -> list[str]:
    if not together:
        return []
    several = f"all {number} queries were asked together" if number > 1 else "one query has only its own statistics"
    return [f"the batch norm of this learner uses the statistics of the queries: {several}, and answers depend on that"]
