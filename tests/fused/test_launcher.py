"""`hydra/launcher=fused`: each cell leaves what it would leave alone, whatever happens to the others."""

from __future__ import annotations

import pytest
from commands import SMALL, metarun
from fused_sweeps import (
    CELLS,
    FUSED,
    GRID,
    PICTURES,
    assert_same_cell,
    results,
    spied,
    sweep,
)

from metarun.run_folder import read_result
from metarun.training.device import Device


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_a_cell_leaves_what_it_leaves_alone(number, fused, alone):
    assert_same_cell(fused / str(number), alone / str(number))
    result = read_result(fused / str(number))
    assert (result["replicas"], result["status"]) == (4, "completed")
    saved = (fused / str(number) / ".hydra" / "overrides.yaml").read_text()
    assert f"seed={CELLS[number][0]}" in saved and f"algo.inner_lr={CELLS[number][1]}" in saved


@pytest.mark.slow
def test_the_cells_are_different_runs(fused):
    assert len({result["mean"] for result in results(fused)}) == 4


def test_a_cell_can_be_tested_again_and_loaded(fused, tmp_path):
    outcome = metarun(f"run.evaluate={fused / '2'}", "hydra.run.dir=again", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert read_result(tmp_path / "again")["mean"] == pytest.approx(read_result(fused / "2")["mean"], rel=1e-9)


@pytest.mark.slow
def test_other_cells_go_in_programs_of_their_own_or_one_after_the_other(tmp_path):
    outcome = sweep("algo=maml,tnet,oracle,learn2learn/maml", "seed=0,1", "run.iterations=8", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    found = {(r["algo"], r["seed"]): r["replicas"] for r in results(tmp_path / "sweep")}
    wanted = {"maml": 2, "tnet": 2, "oracle": 2, "learn2learn/maml": 1}
    assert found == {(algo, seed): n for algo, n in wanted.items() for seed in (0, 1)}
    assert "2 runs go one after the other, since it goes task after task" in outcome.err


@pytest.mark.slow
def test_no_more_than_so_many_in_one(tmp_path):
    outcome = sweep("algo=maml", "seed=0,1,2", "run.iterations=8", "hydra.launcher.max_replicas=2", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert sorted(r["replicas"] for r in results(tmp_path / "sweep")) == [1, 2, 2]


@pytest.mark.slow
def test_micro_batches_of_replicas_leave_what_cells_leave_alone(tmp_path, monkeypatch, alone):
    seen = spied(monkeypatch)
    assert sweep(*GRID, "hydra.launcher.replica_micro_batch=3", folder=tmp_path).status == 0
    assert seen == [3]
    for number in range(4):
        assert_same_cell(tmp_path / "sweep" / str(number), alone / str(number))


@pytest.mark.slow
@pytest.mark.parametrize(("micro_batch", "size"), [("auto", 1), ("null", 2), ("2", 2), ("64", 2)])
def test_convolutions_go_one_by_one_on_a_cpu_unless_told_otherwise(micro_batch, size, tmp_path, monkeypatch):
    seen, asked = spied(monkeypatch), []
    monkeypatch.setattr(Device, "compiles", lambda _, learner, *how, **fixed_shapes: bool(asked.append(how)))
    quick = ("run.iterations=4", "run.eval_tasks=2", "run.val_tasks=2", "run.validate_every=2", "device=cpu")
    outcome = sweep(*PICTURES, *quick, "seed=0,1", f"hydra.launcher.replica_micro_batch={micro_batch}", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert seen == [size] and [r["replicas"] for r in results(tmp_path / "sweep")] == [2, 2]
    assert asked[-1] == (4 * 2 // size, size)  # passes of the program, and replicas in each


@pytest.mark.slow
def test_tasks_that_differ_in_size_from_step_to_step_are_not_stacked(tmp_path):
    quick = ("run.iterations=2", "run.eval_tasks=2", "run.val_tasks=2")
    outcome = sweep(*PICTURES, *quick, "data.train_shots=[1,9]", "seed=0,1", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert "2 runs go one after the other, since their tasks differ in size" in outcome.err
    assert [r["replicas"] for r in results(tmp_path / "sweep")] == [1, 1]


@pytest.mark.parametrize(
    ("key", "value"), [("max_replicas", "0"), ("replica_micro_batch", "0"), ("replica_micro_batch", "some")]
)
def test_a_size_that_is_none_is_refused_by_name_before_anything_starts(key, value, tmp_path):
    outcome = sweep("algo=maml", "seed=0,1", f"hydra.launcher.{key}={value}", folder=tmp_path)
    assert outcome.status == 2
    assert f"hydra.launcher.{key} must be" in outcome.err and value in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_changes_the_program_is_not_fused(tmp_path):
    cells = ("algo.inner_steps=1,2", "backbone.init=torch,xavier", "optimizer.lr=0.001,0.01", "data.noise=0,0.1")
    outcome = sweep("algo=maml", *cells, "run.iterations=4", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert [r["replicas"] for r in results(tmp_path / "sweep")] == [8] * 16
    assert len({r["mean"] for r in results(tmp_path / "sweep")}) == 16


@pytest.mark.slow
def test_a_refused_cell_is_recorded_and_the_rest_runs(tmp_path):
    outcome = sweep("algo=maml", "algo.inner_steps=1,-1", "run.iterations=4", folder=tmp_path)
    assert outcome.status == 1
    assert "algo.inner_steps must be an integer of at least 0; got -1" in outcome.err
    assert [result["status"] for result in results(tmp_path / "sweep")] == ["completed", "failed"]


def test_another_sweep_in_the_same_folder_is_refused_and_nothing_is_lost(fused):
    before = read_result(fused / "0")
    outcome = metarun(
        "-m", *SMALL, *FUSED, *GRID, "run.meta_batch_size=5", "hydra.sweep.dir=sweep", folder=fused.parent
    )
    assert outcome.status == 2
    assert "holds another multirun" in outcome.err
    assert read_result(fused / "0") == before
    assert "meta_batch_size: 4" in (fused / "0" / ".hydra" / "config.yaml").read_text()


@pytest.mark.slow
def test_missing_data_is_said_once_and_leaves_no_folders(tmp_path):
    data = ("data=omniglot", "data.root=nowhere", "data.ways=3", "backbone.filters=4")
    outcome = sweep("algo=maml", "seed=0,1", *data, folder=tmp_path)
    assert outcome.status == 2
    assert outcome.err.count("nowhere") >= 1 and outcome.err.count("metarun: ") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_each_cell_has_a_record_of_its_own_in_weights_and_biases(tmp_path):
    cells = ("algo=maml", "seed=0,1", "run.iterations=8", "tracker=wandb")
    outcome = sweep(*cells, folder=tmp_path)
    assert outcome.status == 0, outcome.err
    records = [list((tmp_path / "sweep" / str(n)).glob("wandb/offline-run-*/run-*.wandb")) for n in (0, 1)]
    assert [len(found) for found in records] == [1, 1]
    ids = [(tmp_path / "sweep" / str(n) / "checkpoint" / "tracker.json").read_text() for n in (0, 1)]
    assert ids[0] != ids[1]
