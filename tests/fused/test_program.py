"""Runs that are one program: each ends by itself, whatever happens to the others."""

from __future__ import annotations

import json
import math
import time

import pytest
from commands import SMALL, metarun, small, start
from fused_sweeps import (
    FUSED,
    GRID,
    assert_same_cell,
    assert_same_cell_without_config,
    results,
    stop_at_33,
    sweep,
)

from metarun.fused.loop import Steps
from metarun.fused.program import Program, median
from metarun.run_folder import read_result
from metarun.training import checkpoint
from metarun.training.checkpoint import load


@pytest.mark.slow
def test_one_that_diverges_is_marked_and_the_others_are_not_hurt(tmp_path, alone):
    outcome = sweep("algo=mtnet", "seed=0", "algo.inner_lr=0.01,1e200,0.1", folder=tmp_path)
    assert outcome.status == 3
    bad = read_result(tmp_path / "sweep" / "1")
    assert (bad["status"], bad["mean"]) == ("diverged", None) and "the loss became" in bad["error"]
    for ours, theirs in ((0, 0), (2, 1)):
        assert_same_cell(tmp_path / "sweep" / str(ours), alone / str(theirs))


@pytest.mark.slow
def test_one_whose_predictions_are_not_finite_is_counted_and_the_others_are_not_hurt(tmp_path):
    """One inner step leaves a finite training loss; ten steps at validation and test do not."""
    sizes = ("data=synthetic", "data.queries=5", "data.train_queries=5", "backbone=mlp", "backbone.hidden=[32,32]")
    steps = (
        "algo.inner_steps=1",
        "algo.eval_steps=10",
        "run.iterations=4",
        "run.validate_every=2",
        "run.curve_steps=10",
    )
    assert sweep("algo=maml", *sizes, *steps, "algo.inner_lr=0.1,1e30", folder=tmp_path).status == 3
    good, bad = results(tmp_path / "sweep")
    assert (good["status"], good["not_finite"]) == ("completed", 0) and good["mean"] is not None
    assert (bad["status"], bad["mean"], bad["validation"]["best"]) == ("diverged", None, None)
    assert f"{bad['not_finite']} of 20 held-out tasks have predictions that are not finite" in bad["error"]
    assert not checkpoint.exists(tmp_path / "sweep" / "1" / "checkpoint", "best")


def test_the_median_to_show_is_of_those_that_are_finite():
    assert median([math.nan, 3.0, 1.0, None, 2.0, math.inf]) == 2.0
    assert median([math.nan]) is None


def test_the_bar_shows_the_median_of_the_losses_beside_that_of_the_validations():
    program = object.__new__(Program)
    program.runs, program.results = dict.fromkeys(range(3)), {}
    step = Steps(1, {"all": [5.0, 1.0, 2.0]}, None, None, {}, 0.0)
    assert program.loss(step) == 2.0
    program.results = dict.fromkeys(range(3), {})
    assert program.loss(step) is None


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_ends_that_one(tmp_path, monkeypatch, alone):
    save = checkpoint.save

    def full(folder, *rest):
        if folder.parent.name == "1":
            raise OSError(28, "No space left on device")
        save(folder, *rest)

    monkeypatch.setattr(checkpoint, "save", full)
    assert sweep(*GRID, folder=tmp_path).status == 1
    assert read_result(tmp_path / "sweep" / "1")["status"] == "failed"
    assert_same_cell(tmp_path / "sweep" / "3", alone / "3")


@pytest.mark.slow
def test_interrupted_it_goes_on_by_the_same_command(tmp_path, monkeypatch, fused):
    stop_at_33(monkeypatch)
    assert sweep(*GRID, folder=tmp_path).status == 143
    assert {(r["status"], r["iteration"]) for r in results(tmp_path / "sweep")} == {("interrupted", 33)}
    monkeypatch.undo()
    assert sweep(*GRID, folder=tmp_path).status == 0
    for number in range(4):
        assert_same_cell(tmp_path / "sweep" / str(number), fused / str(number))


@pytest.mark.slow
def test_a_cell_of_an_interrupted_sweep_goes_on_alone(tmp_path, monkeypatch, fused):
    stop_at_33(monkeypatch)
    sweep(*GRID, folder=tmp_path)
    monkeypatch.undo()
    assert metarun(f"run.resume={tmp_path / 'sweep' / '2'}", folder=tmp_path).status == 0
    assert_same_cell(tmp_path / "sweep" / "2", fused / "2")
    # and the rest goes on without it
    outcome = sweep(*GRID, folder=tmp_path)
    assert outcome.status == 0
    assert "1 are done, 3 resume" in outcome.out
    assert read_result(tmp_path / "sweep" / "3")["replicas"] == 4  # the place of what went on alone is kept
    assert_same_cell(tmp_path / "sweep" / "3", fused / "3")


@pytest.mark.slow
def test_killed_between_two_checkpoints_cells_at_different_iterations_go_on(tmp_path, fused):
    """SIGKILL at a random moment: whatever lies there, the end is the same."""
    saved = ["-m", *SMALL, *FUSED, *GRID, "run.checkpoint_seconds=0", "run.iterations=60", "hydra.sweep.dir=sweep"]
    process = start(*saved, folder=tmp_path)
    try:
        deadline = time.monotonic() + 200
        pointer = tmp_path / "sweep" / "0" / "checkpoint" / "last.json"
        while not pointer.is_file() or json.loads(pointer.read_text())["iteration"] < 20:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate()
    outcome = metarun(*saved, folder=tmp_path)
    assert outcome.status == 0, outcome.err
    for number in range(4):
        assert_same_cell_without_config(tmp_path / "sweep" / str(number), fused / str(number))


@pytest.mark.slow
def test_a_program_that_fails_leaves_each_to_itself(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no batching rule for this")

    monkeypatch.setattr("metarun.fused.replicas.Replicas.program", lambda self: broken)
    outcome = sweep("algo=maml", "seed=0,1", "run.iterations=4", folder=tmp_path)
    assert outcome.status == 0
    assert "their program fails (no batching rule for this)" in outcome.err
    assert [r["replicas"] for r in results(tmp_path / "sweep")] == [1, 1]


@pytest.mark.slow
def test_what_is_tested_is_the_best_not_the_last(tmp_path):
    cells = ("algo=maml", "seed=0,1", "optimizer.lr=0.5")  # so large that validation gets worse again
    assert sweep(*cells, folder=tmp_path).status == 0
    best, last = (load(tmp_path / "sweep" / "1" / "checkpoint", name) for name in ("best", "last"))
    assert best.details["iteration"] < last.details["iteration"]
    alone = small("algo=maml", "seed=1", "optimizer.lr=0.5", "device.precision=float64", folder=tmp_path)
    assert read_result(tmp_path / "sweep" / "1")["mean"] == pytest.approx(alone["mean"], rel=1e-7)
