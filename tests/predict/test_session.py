"""Adapting to unequal classes and answering, for every learner whose weights do not fix the number of classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import metarun
from metarun.cli.command import Command
from metarun.experiment.build import _class, build
from metarun.experiment.choices import describe, names
from metarun.experiment.trained import TrainedLearner
from metarun.predict.examples import Picture
from metarun.predict.session import predict, said_of

FREE = [
    name
    for name in names("algo")
    if not name.startswith("learn2learn/")
    and "classification" in (kind := _class(describe("algo", name))).task_types
    and kind.any_ways()
    and (kind.evaluation_stream or "episodes") == "episodes"
]


def untrained(algo: str, *more: str) -> TrainedLearner:
    """A learner with its initial weights, for pictures of 16 pixels."""
    small = ("data=imagefolder", "data.size=16", "tracker=none", f"algo={algo}", *more)
    cfg = Command.parse(small).compose()
    choices = {str(group): str(name) for group, name in cfg.hydra.runtime.choices.items()}
    parts = build(cfg, choices)
    return TrainedLearner(parts.learner.eval(), parts.data, Path("run"), choices)


def named(folder: Path) -> list[Picture]:
    return [Picture(path, path.parent.name) for path in sorted(folder.glob("*/*.png"))]


def test_there_are_such_learners():
    assert {"protonet", "matching", "relation", "nearest_centroid", "imp"} <= set(FREE)


@pytest.mark.parametrize("algo", FREE)
def test_it_answers_with_as_many_classes_as_it_is_shown(algo, pictures):
    torch.manual_seed(0)
    session = predict(untrained(algo), named(pictures / "support"), named(pictures / "asked"))
    assert session.answers.classes == ["blue", "green", "red"]
    assert len(session.answers.answers) == 6
    assert all(sum(answer.probabilities) == pytest.approx(1, abs=1e-4) for answer in session.answers.answers)


def test_queries_of_a_batch_norm_are_asked_together_and_that_is_said(pictures):
    trained = untrained("protonet", "backbone.norm=batch")
    together = predict(trained, named(pictures / "support"), named(pictures / "asked"))
    alone = predict(trained, named(pictures / "support"), named(pictures / "asked")[:1])
    assert "all 6 queries were asked together" in together.notes[0]
    assert "one query has only its own statistics" in alone.notes[0]
    assert together.answers.answers[0].probabilities != alone.answers.answers[0].probabilities


def test_others_are_asked_in_portions_with_the_same_answers(run, pictures, monkeypatch):
    trained, words = metarun.load(run), (named(pictures / "support"), named(pictures / "asked"))
    whole = predict(trained, *words)
    monkeypatch.setattr("metarun.predict.session.AT_ONCE", 4)
    parts = predict(trained, *words)
    assert whole.notes == parts.notes == []
    rows = zip(whole.answers.answers, parts.answers.answers, strict=True)
    assert all(a.probabilities == pytest.approx(b.probabilities) and a.path == b.path for a, b in rows)


def test_every_picture_is_counted_also_one_that_cannot_be_read(run, pictures):
    (pictures / "asked" / "red" / "0.png").write_text("no picture")
    read: list[None] = []
    session = predict(
        metarun.load(run), named(pictures / "support"), named(pictures / "asked"), on_picture=lambda: read.append(None)
    )
    assert (len(read), len(session.queries.skipped), len(session.answers.answers)) == (12, 1, 5)


def test_the_preparation_in_words(run):
    assert said_of(metarun.preparation(run)) == "RGB, stretched to 8 x 8 pixels"
