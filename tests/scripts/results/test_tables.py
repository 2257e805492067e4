"""Tables say what their records hold, and what their rows share."""

from __future__ import annotations

import dataclasses

import pytest
from recorded import RECORD

from scripts.results.records import Measure, SeedRun
from scripts.results.tables import (
    ITERATIONS,
    TASK,
    TRAINING_TASKS,
    Table,
    by_name,
    crossed,
    figure,
    listed,
    percent,
    published,
    render,
    rounded,
    setting,
    shared,
    two_digits,
    unsaid,
)

DATA = {"ways": 5, "shots": 1, "train_ways": 20, "train_shots": [1, 10], "train_queries": 1, "partition": "small"}
ONE = dataclasses.replace(RECORD, config={"data": DATA, "run": {"meta_batch_size": 4}, "backbone": {"filters": 32}})
FEWER = dataclasses.replace(ONE, cell="fewer", config={**ONE.config, "backbone": {"filters": 16}}, iterations=1000)
RECORDS = by_name([ONE, FEWER])
NAME = "small/protonet 5-way 1-shot"


def test_a_table_is_rendered():
    columns = [TASK, TRAINING_TASKS, ITERATIONS, figure("accuracy, %", percent(1)), published(percent(1))]
    caption, lines = render(listed("one", "Few runs.", {"prototypical": NAME}, columns), RECORDS).split("\n\n")
    assert max(map(len, caption.splitlines())) <= 120
    assert caption.replace("\n", " ") == (
        "Few runs. All rows: partition `small`, 32 filters, training queries (of each class): 1, tasks an outer step: "
        "4, 2,000 iterations, 200 test tasks, seeds 0, 1, threads: 1. Measured 2026-11-21 on a machine; commit 25ff4b5."
    )
    assert lines == (
        "| learner | task | an outer step | iterations | accuracy, % | published |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| prototypical | 5-way 1-shot | 4 × 20-way 1 to 10-shot, 1 query | 2,000 | "
        "**62.5** (50.0 ± 1.0, 75.0 ± 2.0) | 98.8 (Snell et al. 2017) |"
    )


def test_a_crossed_table_asks_for_the_record_of_each_row_and_column():
    table = crossed("x", "", {"a": "1", "b": "2"}, {"c": "3"}, lambda row, column: f"t/{row}{column}", figure(""))
    assert [entry.record for entry in table.entries()] == ["t/13", "t/23"]
    with pytest.raises(KeyError, match="there is no record t/13"):
        render(table, {})


def of_both(caption: str, *columns, **apart) -> Table:
    return listed(
        "x", caption, {"a": NAME, "b": "small/fewer"}, [figure("accuracy"), *columns], apart=apart.get("apart")
    )


def test_what_rows_differ_in_has_to_be_said():
    assert unsaid(of_both("Some."), RECORDS) == ["backbone.filters", "run.iterations"]
    assert unsaid(of_both("Some.", ITERATIONS, setting("filters", "backbone.filters")), RECORDS) == []
    assert unsaid(of_both("Sizes vary.", ITERATIONS, apart={"backbone": "Sizes"}), RECORDS) == []
    assert unsaid(of_both("Some.", ITERATIONS, apart={"backbone": "Sizes"}), RECORDS) == ["backbone.filters"]


def test_what_rows_share_is_what_all_have():
    text = shared([ONE, dataclasses.replace(FEWER, date="2026-11-23", commit="abc, 25ff4b5")])
    assert "filters" not in text and "iterations" not in text and "200 test tasks" in text
    assert text.endswith("Measured 2026-11-21 to 2026-11-23 on a machine; commit 25ff4b5, abc.")


def test_other_figures_of_the_runs():
    runs = [SeedRun(0, 2.0, 0.0421, None), SeedRun(1, None, None, None)]
    record = dataclasses.replace(ONE, measures=[Measure("mse", 3, runs, None)])
    assert figure("", metric="mse", step=3).show(record) == "**diverged** (2.00 ± 0.042, diverged)"
    assert figure("", metric="mse", step=4).show(record) == ""


def test_numbers_are_rounded_to_what_they_say():
    assert [rounded(value) for value in (164.2, 5.2928, 0.6535, None)] == ["164", "5.29", "0.653", "diverged"]
    assert [two_digits(value) for value in (29.06, 0.0504, 0.00039, 0.0)] == ["29", "0.050", "0.00039", "0"]
