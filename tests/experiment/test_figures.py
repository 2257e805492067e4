"""Pictures and plots of a result that is there."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from metarun.evaluation.calibration import Calibration
from metarun.evaluation.evaluate import Evaluation
from metarun.evaluation.verification import evaluate_verification
from metarun.experiment.figures import draw_result, track_result
from metarun.experiment.result import Outcome
from metarun.tracking.trackers import Trackers


class Notes(Trackers):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__({})
        self.received: dict[str, Any] = {}

    def curve(self, metric, rows):
        self.received[f"curve of {metric}"] = rows

    def table(self, name, columns, rows):
        self.received[name] = (columns, rows)

    def lines(self, name, x_name, lines):
        self.received[name] = (x_name, lines)

    def figure(self, name, path):
        self.received[f"figure {name}"] = path


def outcome(values: dict[str, np.ndarray], headline: str = "accuracy", **more: Any) -> Outcome:
    evaluation = Evaluation(headline, 0, values)
    parts = {"chance": 0.2, "verification": None, "calibration": None, "adapted_curves": []}
    return Outcome(evaluation, evaluation.curve(), **(parts | more))


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


ONES = {"accuracy": np.ones((4, 1))}


@pytest.mark.parametrize(
    ("metric", "axes"),
    [("ece", ("confidence", "accuracy")), ("calibration_error", ("level of the interval", "targets inside"))],
)
def test_reliability_goes_to_the_folder_and_the_tracker(tmp_path, metric, axes):
    diagram = {"claimed": [0.3, 0.7], "found": [0.4, 0.6], "weight": [0.5, 0.5]}
    result = outcome(ONES, calibration=Calibration(metric, {"mean": 0.1, "ci95": 0.01, "median": None}, diagram))
    draw_result(result, tmp_path, trained=False)
    assert names(tmp_path) == {"reliability.png"}
    notes = Notes()
    track_result(result, tmp_path, notes)
    x_name, lines = notes.received["curve/reliability"]
    assert x_name == axes[0] and lines[axes[1]] == [(0.3, 0.4), (0.7, 0.6)]
    assert notes.received["figure reliability"] == tmp_path / "reliability.png"


def test_instances_go_to_the_folder_and_the_tracker_where_there_are_any(tmp_path):
    result = outcome(ONES | {"instance_1": np.zeros((4, 1)), "instance_2": np.ones((4, 1))})
    draw_result(result, tmp_path, trained=False)
    notes = Notes()
    track_result(result, tmp_path, notes)
    columns, rows = notes.received["instances"]
    assert columns == ["instance", "accuracy", "ci95"] and [row[:2] for row in rows] == [[1, 0.0], [2, 1.0]]
    assert names(tmp_path) == {"instances.png"}
    assert "instances" not in result.fields()["metrics"] and "instance_1" in result.fields()["metrics"]


def test_nothing_is_drawn_of_what_is_not_there(tmp_path):
    result = outcome(ONES)
    draw_result(result, tmp_path, trained=False)
    notes = Notes()
    track_result(result, tmp_path, notes)
    assert names(tmp_path) == set() and notes.received == {}  # of a learner that adapts at once there is no curve


def test_a_curve_over_steps_and_one_over_training_are_drawn(tmp_path):
    rows = [{"iteration": 10 * k, "train/mse": 1 / k, "val/mse": 1 / k} for k in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = outcome({"mse": np.arange(12.0).reshape(4, 3)}, headline="mse", chance=None)
    draw_result(result, tmp_path, trained=True)
    notes = Notes()
    track_result(result, tmp_path, notes)
    assert [row["step"] for row in notes.received["curve of mse"]] == [0, 1, 2]
    assert names(tmp_path) == {"metrics.jsonl", "step_curve.png", "learning_curve.png"}


@pytest.mark.slow
def test_verification_has_its_curve_and_scores(tmp_path):
    generator = np.random.default_rng(0)
    same = np.tile([1, 1, 0, 0], (5, 1))
    val, test = ({"scores": same + generator.normal(size=same.shape), "same": same} for _ in range(2))
    result = outcome({"auc": np.ones((5, 1)), **test}, headline="auc", verification=evaluate_verification(test, val))
    draw_result(result, tmp_path, trained=False)
    notes = Notes()
    track_result(result, tmp_path, notes)
    assert names(tmp_path) == {"roc.png", "scores.png"}
    x_name, lines = notes.received["curve/roc"]
    assert x_name == "false positive rate" and lines["pairs"][0] == (0, 0) and lines["pairs"][-1] == (1, 1)
    fields = result.fields()
    assert fields["metrics"]["eer"]["mean"] == fields["verification"]["eer"]
