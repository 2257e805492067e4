"""Flat forms, tables, and points that are recorded once."""

import math

from metarun.tracking.jsonl import MetricsFile
from metarun.tracking.records import (
    AsTables,
    Recorded,
    csv_text,
    flat_config,
    flat_result,
    markdown,
    measured,
    recorded_rows,
)


def test_a_configuration_by_dotted_keys():
    config = {"algo": {"inner_lr": 0.1, "first_order": True}, "data": {"hidden": [40, 40], "root": None}, "seed": 3}
    assert flat_config(config) == {
        "algo.inner_lr": 0.1,
        "algo.first_order": True,
        "data.hidden": "[40, 40]",
        "data.root": "None",
        "seed": 3,
    }


def test_a_result_and_its_numbers():
    result = {
        "metric": "accuracy",
        "mean": 0.9,
        "ci95": 0.1,
        "median": None,
        "tasks": 600,
        "status": "completed",
        "metrics": {"nll": {"mean": 0.2}},
        "paper": {"value": 0.8},
    }
    flat = flat_result(result)
    assert flat == {
        "test/accuracy": 0.9,
        "test/accuracy_ci95": 0.1,
        "test/nll": 0.2,
        "result/metric": "accuracy",
        "result/tasks": 600,
        "result/status": "completed",
        "paper/value": 0.8,
    }
    assert measured(flat) == {"test/accuracy": 0.9, "test/accuracy_ci95": 0.1, "test/nll": 0.2}


def test_tables_as_text():
    assert csv_text(["a", "b"], [[1, None], ["x, y", 0.5]]) == 'a,b\n1,\n"x, y",0.5\n'
    assert markdown(["a", "b"], [[1, None]]) == "| a | b |\n| --- | --- |\n| 1 |  |"


def test_curves_and_lines_are_tables():
    made = []

    class Tables(AsTables):
        def table(self, *arguments):
            made.append(arguments)

    Tables().curve("mse", [{"step": 0, "mean": 1.0, "ci95": 0.1, "median": 2.0, "more": 5}])
    Tables().lines("curve/roc", "rate", {"a": [(0.0, 1.0), (0.5, None)], "b": [(1.0, 2.0)]})
    assert made == [
        ("curve/mse", ["step", "mean", "ci95", "median"], [[0, 1.0, 0.1, 2.0]]),
        ("curve/roc", ["line", "rate", "y"], [["a", 0.0, 1.0], ["b", 1.0, 2.0]]),
    ]


def test_a_point_is_new_once():
    recorded = Recorded([("train/loss", 10)])
    assert recorded.new({"train/loss": 1.0, "val/mse": 2.0}, 10) == {"val/mse": 2.0}
    assert recorded.new({"train/loss": 1.0, "val/mse": 2.0}, 10) == {}
    assert recorded.new({"train/loss": 1.0}, 20) == {"train/loss": 1.0}


def test_rows_of_metrics_with_not_finite_values(tmp_path):
    assert list(recorded_rows(tmp_path / "none.jsonl")) == []
    with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
        metrics.log({"train/loss": float("inf")}, 10)
    ((iteration, values),) = recorded_rows(tmp_path / "metrics.jsonl")
    assert iteration == 10 and math.isnan(values["train/loss"])
