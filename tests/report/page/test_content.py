"""What the page shows of runs: columns, groups, the first selection, configurations."""

from __future__ import annotations

import pytest
from runs import BY_STEP, write_run

from metarun.report.page.content import FIRST_SELECTED, Content, columns, document
from metarun.run_folder import read_runs


def content_of(folder, *cells) -> Content:
    for number, cell in enumerate(cells):
        write_run(folder / f"run_{number:03}", **cell)
    return Content(read_runs([folder]))


def test_the_document_holds_steps_curves_and_configurations(tmp_path):
    document_of = document(content_of(tmp_path, {"mean": 0.5}, {"algo": "tnet", "mean": 0.4, "seed": 1}))
    first, second = document_of["runs"]
    assert (first["name"], first["metric"], first["higher"], first["mean"]) == ("run_000", "mse", False, 0.5)
    assert second["steps"] == [[step, pytest.approx(0.4 * times), 0.02] for step, times in enumerate(BY_STEP)]
    place, values = first["curves"]["val/mse"]
    assert document_of["grids"][place] == [250, 500, 750, 1000]
    assert values == [pytest.approx(0.5 * (1 + 3 / at), rel=1e-3) for at in (5, 10, 15, 20)]
    seeds = document_of["config"]["seed"]
    assert [seeds["values"][at] for at in seeds["at"]] == ["0", "1"]
    assert not [key for key in document_of["config"] if key.startswith("paper")]


def test_groups_are_learners_settings_and_runs(tmp_path):
    cells = [{"algo": algo, "inner_lr": rate} for algo in ("maml", "<b>") for rate in (0.1, 0.01)]
    groups = document(content_of(tmp_path, *cells))["groups"]
    assert groups["learner"] == {"names": ["maml", "&lt;b&gt;"], "of": [0, 0, 1, 1]}
    assert groups["setting"] == {"names": ["inner_lr 0.1", "inner_lr 0.01"], "of": [0, 1, 0, 1]}
    assert groups["run"] == {"names": ["run_000", "run_001", "run_002", "run_003"], "of": [0, 1, 2, 3]}


def test_a_setting_is_named_by_what_differs_among_the_runs(tmp_path):
    content = content_of(tmp_path, {"data": "sinusoid", "iterations": 1000}, {"data": "omniglot", "iterations": 60000})
    assert content.group_names["setting"] == ["data sinusoid, iterations 1000", "data omniglot, iterations 60,000"]
    assert content_of(tmp_path / "same", {}, {"seed": 1}).group_names["setting"] == ["as configured"] * 2
    assert Content([]).group_names == {"learner": [], "setting": [], "run": []}


def test_runs_of_the_same_name_are_groups_of_their_own(tmp_path):
    content = content_of(tmp_path, {}, {"seed": 1})
    for run in content.runs:
        run.name = "run"
    assert document(content)["groups"]["run"] == {"names": ["run", "run"], "of": [0, 1]}


def test_few_runs_are_all_selected_and_of_many_some_of_each_learner(tmp_path):
    assert content_of(tmp_path / "few", {}, {"seed": 1}).selected == {0, 1}
    cells = [{"algo": "a", "seed": seed} for seed in range(40)] + [{"algo": "b", "seed": seed} for seed in range(5)]
    content = content_of(tmp_path / "many", *cells)
    assert len(content.selected) == FIRST_SELECTED
    assert content.selected == {*range(25), *range(40, 45)}


def test_curves_are_offered_training_first_then_validation_then_the_loss(tmp_path):
    content = content_of(tmp_path, {}, {"metric": "accuracy", "data": "omniglot"}, {"seed": 1})
    assert content.curve_keys == ["train/mse", "train/accuracy", "val/mse", "val/accuracy", "train/loss"]


def test_statuses_are_counted_in_their_order(tmp_path):
    cells = [{"status": "failed", "mean": None}, {}, {"status": "diverged", "mean": None}, {"seed": 1}]
    assert list(content_of(tmp_path, *cells).statuses.items()) == [("completed", 2), ("diverged", 1), ("failed", 1)]


def test_columns_hold_each_different_value_once():
    table = columns([{"a": 1, "b": [1, 2]}, {"a": "x"}, {"a": 1, "b": None}])
    assert table == {
        "a": {"values": ["1", "x"], "at": [0, 1, 0]},
        "b": {"values": ["[1, 2]", "null"], "at": [0, -1, 1]},
    }
