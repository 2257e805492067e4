"""Counts and files of answers, against SciPy's interval and Python's own readers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from scipy.stats import binomtest

from metarun.predict.answers import REFUSED, Answer, Answers, Share

GIVEN = [("a", "a"), ("b", "a"), (None, "b"), ("b", "b"), ("b", "z"), (None, "z"), ("a", None)]
ANSWERS = Answers(
    ["a", "b"], [Answer(Path(f"{n}.png"), label, [0.25, 0.75], truth) for n, (label, truth) in enumerate(GIVEN)]
)


@pytest.mark.parametrize(("right", "of"), [(27, 29), (0, 4), (1, 1), (500, 1000)])
def test_the_interval_is_wilsons(right, of):
    share, wanted = Share.over(right, of), binomtest(right, of).proportion_ci(method="wilson")
    assert (share.low, share.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


def test_refusals_are_wrong_for_known_classes_and_right_for_others():
    accuracy, strangers = ANSWERS.accuracy(), ANSWERS.refused_strangers()
    assert accuracy is not None and (accuracy.right, accuracy.of) == (2, 4)
    assert strangers is not None and (strangers.right, strangers.of) == (1, 2)
    assert ANSWERS.confusion() == (["a", "b", REFUSED], [[1, 1, 0], [0, 1, 1]])


def test_without_known_classes_nothing_is_said_of_them():
    unknown = Answers(["a", "b"], [Answer(Path("x"), "a", [1.0, 0.0])])
    assert unknown.accuracy() is None and unknown.refused_strangers() is None
    assert unknown.confusion() == (["a", "b"], [[0, 0], [0, 0]])


def test_files_hold_every_answer(tmp_path):
    ANSWERS.write_csv(tmp_path / "a.csv")
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert len(rows) == 7 and rows[2] == {"path": "2.png", "label": "", "truth": "b", "p(a)": "0.25", "p(b)": "0.75"}
    ANSWERS.write_json(tmp_path / "a.json", {"run": "r"})
    content = json.loads((tmp_path / "a.json").read_text())
    assert (content["run"], content["classes"], content["accuracy"]["right"]) == ("r", ["a", "b"], 2)
    assert content["predictions"][2] == {
        "path": "2.png",
        "label": None,
        "truth": "b",
        "probabilities": {"a": 0.25, "b": 0.75},
    }
