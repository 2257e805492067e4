"""Learning curves are thinned, damaged lines are skipped, and runs share their iterations."""

from __future__ import annotations

import pytest
from runs import config_of, write_config, write_run

from metarun.report.page.curves import ALL_POINTS, POINTS, Curves, evenly, parsed, rounded, thinned_rows
from metarun.run_folder import read_runs


def test_long_curves_are_thinned_to_their_end(tmp_path):
    rows = [{"iteration": at, "train/mse": at / 7} for at in range(1, 1001)]
    rows[499:499] = [{"iteration": 500, "val/mse": 1.5}]
    write_run(tmp_path / "runs" / "a", history=rows)
    curves = Curves(read_runs([tmp_path / "runs"]))
    place, values = curves.by_run[0]["train/mse"]
    iterations = curves.grids[place]
    assert POINTS / 2 < len(iterations) <= POINTS
    assert iterations[-1] == 1000
    assert len({second - first for first, second in zip(iterations, iterations[1:], strict=False)}) == 1
    assert values[-1] == float(f"{1000 / 7:.4g}")
    assert curves.by_run[0]["val/mse"][1] == [1.5]


@pytest.mark.slow
def test_the_more_runs_the_fewer_points_but_a_third_at_least(tmp_path):
    (run,) = read_runs([write_run(tmp_path / "a", history=[{"iteration": at, "train/mse": 1.0} for at in range(1000)])])
    few, many = (Curves([run] * number) for number in (ALL_POINTS // 250, 2 * ALL_POINTS // POINTS + 1))
    lengths = [len(curves.grids[0]) for curves in (few, many)]
    assert POINTS / 2 < lengths[0] <= 250 and 150 >= lengths[1] > POINTS / 3


def test_runs_share_the_iterations_of_their_curves(tmp_path):
    for seed in range(3):
        write_run(tmp_path / str(seed), seed=seed)
    assert len(Curves(read_runs([tmp_path])).grids) == 2  # of training and of validation


def test_damaged_and_half_written_lines_are_skipped(tmp_path):
    going = write_config(tmp_path / "going", config_of("maml", 3, 0.01, "sinusoid"))
    (going / "metrics.jsonl").write_text(
        '{"iteration": 1, "train/mse": 2.0}\n{"iteration": 2, "train/mse": 1.0}\n{"itera'
    )
    torn = write_run(tmp_path / "torn")
    (torn / "metrics.jsonl").write_text(
        '{"iteration": 1, "train/mse": 2.0}\n\x00\x00\n[]\n{"iteration": 3, "train/mse": null}\n'
    )
    curves = Curves(read_runs([tmp_path]))
    first, second = curves.by_run
    assert first["train/mse"][1] == [2.0, 1.0]
    assert second["train/mse"][1] == [2.0, None]
    assert curves.problems == [None, "metrics.jsonl: 2 of 4 lines looked at are damaged"]


def test_without_metrics_there_is_no_curve(tmp_path):
    write_config(tmp_path / "run", {"seed": 0})
    assert thinned_rows(tmp_path / "run" / "metrics.jsonl", 10) == ([], None)
    assert Curves(read_runs([tmp_path])).by_run == [{}]
    assert Curves([]).grids == []


@pytest.mark.parametrize(("lines", "points"), [(0, 3), (1, 3), (3, 3), (4, 3), (1000, 300)])
def test_lines_are_taken_evenly_up_to_the_last(lines, points):
    taken = evenly([b"%d" % at for at in range(lines)], points)
    assert len(taken) <= points and taken[-1:] == [b"%d" % (lines - 1)] * (lines > 0)


def test_lines_are_parsed_one_by_one_if_one_is_damaged():
    assert parsed([b"1", b'{"a": 2}']) == [1, {"a": 2}]
    assert parsed([b"1", b"{", b"3"]) == [1, 3]


def test_values_have_four_digits():
    assert [rounded(value) for value in (1 / 3, 123456.7, None, "x", float("nan"))] == [
        0.3333,
        123500.0,
        None,
        None,
        None,
    ]
