"""`hydra/launcher=fused`: each cell leaves what it would leave alone, whatever happens to the others."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from commands import SMALL, metarun, small, start

from metarun.experiment import session as run
from metarun.fused.replicas import Replicas
from metarun.run_folder import read_result
from metarun.tracking.jsonl import read_metrics
from metarun.training import checkpoint
from metarun.training.checkpoint import load
from metarun.training.device import Device

FUSED = ("hydra/launcher=fused", "hydra.sweep.subdir=${hydra.job.num}", "device.precision=float64")
GRID = ("algo=mtnet", "seed=0,1", "algo.inner_lr=0.01,0.1")
CELLS = [("0", "0.01"), ("0", "0.1"), ("1", "0.01"), ("1", "0.1")]


def sweep(*arguments: str, folder: Path, name: str = "sweep"):
    return metarun("-m", *SMALL, *FUSED, *arguments, f"hydra.sweep.dir={name}", folder=folder)


def results(folder: Path) -> list[dict]:
    return [read_result(cell) for cell in sorted(folder.iterdir()) if (cell / "result.json").is_file()]


@pytest.fixture(scope="module")
def fused(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fused")
    outcome = sweep(*GRID, folder=folder)
    assert outcome.status == 0, outcome.err
    return folder / "sweep"


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    for number, (seed, lr) in enumerate(CELLS):
        overrides = ("algo=mtnet", f"seed={seed}", f"algo.inner_lr={lr}", "device.precision=float64")
        small(*overrides, folder=folder, name=f"runs/{number}")
    return folder / "runs"


TIMES = ("train_seconds", "iterations_per_second", "peak_memory_mb", "compile_seconds", "replicas", "overrides")


def assert_same_cell(ours: Path, theirs: Path) -> None:
    """Result, metrics, tested episodes and weights, to rounding; but for what tells of time."""
    a, b = ({k: v for k, v in read_result(f).items() if k not in TIMES} for f in (ours, theirs))
    assert set(a) == set(b)
    for key in a:
        assert_close(a[key], b[key], key)
    rows = [
        [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(f / "metrics.jsonl")]
        for f in (ours, theirs)
    ]
    assert_close(*rows, "metrics.jsonl")
    with np.load(ours / "episodes.npz") as x, np.load(theirs / "episodes.npz") as y:
        np.testing.assert_allclose(x["mse"], y["mse"], rtol=1e-8)
    for name in ("last", "best"):
        x, y = (load(f / "checkpoint", name) for f in (ours, theirs))
        assert x.about["iteration"] == y.about["iteration"]
        for weight in x.weights:
            np.testing.assert_allclose(x.weights[weight], y.weights[weight], rtol=1e-8, atol=1e-10)
        for key, state in x.state["optimizers"]["meta"]["state"].items():
            other = y.state["optimizers"]["meta"]["state"][key]
            np.testing.assert_allclose(state["exp_avg"], other["exp_avg"], rtol=1e-7, atol=1e-10)
        for stream, state in x.state["generators"].items():
            assert np.array_equal(state, y.state["generators"][stream])


def assert_close(a, b, where: str) -> None:
    if isinstance(a, dict) and isinstance(b, dict):
        assert set(a) == set(b), where
        for key in a:
            assert_close(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list) and isinstance(b, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_close(x, y, f"{where}[{i}]")
    elif isinstance(a, float) and isinstance(b, float):
        assert a == pytest.approx(b, rel=1e-7), where
    else:
        assert a == b, where


@pytest.mark.parametrize("number", range(4))
def test_a_cell_leaves_what_it_leaves_alone(number, fused, alone):
    assert_same_cell(fused / str(number), alone / str(number))
    result = read_result(fused / str(number))
    assert (result["replicas"], result["status"]) == (4, "completed")
    saved = (fused / str(number) / ".hydra" / "overrides.yaml").read_text()
    assert f"seed={CELLS[number][0]}" in saved and f"algo.inner_lr={CELLS[number][1]}" in saved


def test_the_cells_are_different_runs(fused):
    assert len({result["mean"] for result in results(fused)}) == 4


def test_a_cell_can_be_tested_again_and_loaded(fused, tmp_path):
    outcome = metarun(f"run.evaluate={fused / '2'}", "hydra.run.dir=again", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert read_result(tmp_path / "again")["mean"] == pytest.approx(read_result(fused / "2")["mean"], rel=1e-9)


def test_other_cells_go_in_programs_of_their_own_or_one_after_the_other(tmp_path):
    outcome = sweep("algo=maml,tnet,oracle,learn2learn/maml", "seed=0,1", "run.iterations=8", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    found = {(r["algo"], r["seed"]): r["replicas"] for r in results(tmp_path / "sweep")}
    wanted = {"maml": 2, "tnet": 2, "oracle": 2, "learn2learn/maml": 1}
    assert found == {(algo, seed): n for algo, n in wanted.items() for seed in (0, 1)}
    assert "2 runs go one after the other, since it goes task after task" in outcome.err


def test_no_more_than_so_many_in_one(tmp_path):
    outcome = sweep("algo=maml", "seed=0,1,2", "run.iterations=8", "hydra.launcher.max_replicas=2", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert sorted(r["replicas"] for r in results(tmp_path / "sweep")) == [1, 2, 2]


def spied(monkeypatch) -> list[int]:
    """Replicas in one forward and backward pass, of each program."""
    seen: list[int] = []
    begin = Replicas.__init__

    def spy(self, *arguments):
        begin(self, *arguments)
        seen.append(self.size)

    monkeypatch.setattr(Replicas, "__init__", spy)
    return seen


def test_chunks_of_replicas_leave_what_cells_leave_alone(tmp_path, monkeypatch, alone):
    seen = spied(monkeypatch)
    assert sweep(*GRID, "hydra.launcher.replica_micro_batch=3", folder=tmp_path).status == 0
    assert seen == [3]
    for number in range(4):
        assert_same_cell(tmp_path / "sweep" / str(number), alone / str(number))


PICTURES = (
    "data=synthetic",
    "algo=protonet",
    "data.ways=3",
    "data.queries=2",
    "backbone.filters=4",
    "backbone.blocks=2",
)


@pytest.mark.parametrize(("chunk", "size"), [("auto", 1), ("null", 2), ("2", 2), ("64", 2)])
def test_convolutions_go_one_by_one_on_a_cpu_unless_told_otherwise(chunk, size, tmp_path, monkeypatch):
    seen, asked = spied(monkeypatch), []
    monkeypatch.setattr(Device, "compiles", lambda _, learner, *how, **fixed_shapes: asked.append(how))
    quick = ("run.iterations=4", "run.eval_tasks=2", "run.val_tasks=2", "run.validate_every=2", "device=cpu")
    outcome = sweep(*PICTURES, *quick, "seed=0,1", f"hydra.launcher.replica_micro_batch={chunk}", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert seen == [size] and [r["replicas"] for r in results(tmp_path / "sweep")] == [2, 2]
    assert asked[-1] == (4 * 2 // size, size)  # passes of the program, and replicas in each


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


def test_what_changes_the_program_is_not_fused(tmp_path):
    cells = ("algo.inner_steps=1,2", "backbone.init=torch,xavier", "optimizer.lr=0.001,0.01", "data.noise=0,0.1")
    outcome = sweep("algo=maml", *cells, "run.iterations=4", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert [r["replicas"] for r in results(tmp_path / "sweep")] == [8] * 16
    assert len({r["mean"] for r in results(tmp_path / "sweep")}) == 16


def test_one_that_diverges_is_marked_and_the_others_are_not_hurt(tmp_path, alone):
    outcome = sweep("algo=mtnet", "seed=0", "algo.inner_lr=0.01,1e200,0.1", folder=tmp_path)
    assert outcome.status == 3
    bad = read_result(tmp_path / "sweep" / "1")
    assert (bad["status"], bad["mean"]) == ("diverged", None) and "the loss became" in bad["error"]
    for ours, theirs in ((0, 0), (2, 1)):
        assert_same_cell(tmp_path / "sweep" / str(ours), alone / str(theirs))


def test_a_refused_cell_is_recorded_and_the_rest_runs(tmp_path):
    outcome = sweep("algo=maml", "algo.inner_steps=1,-1", "run.iterations=4", folder=tmp_path)
    assert outcome.status == 1
    assert "algo.inner_steps must be an integer of at least 0; got -1" in outcome.err
    assert [result["status"] for result in results(tmp_path / "sweep")] == ["completed", "failed"]


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


# --------------------------------------------------------------------------------------------------- going on


def stop_at_33(monkeypatch) -> None:
    """SIGTERM in the first save after iteration 33."""
    save, log = run.Experiment.save, run.Experiment.count

    def count(self, number, seconds, loss):
        log(self, number, seconds, loss)
        if self.training.iteration == 33:
            self.caught.append(signal.SIGTERM)

    monkeypatch.setattr(run.Experiment, "count", count)
    monkeypatch.setattr(run.Experiment, "save", save)


def test_interrupted_it_goes_on_by_the_same_command(tmp_path, monkeypatch, fused):
    stop_at_33(monkeypatch)
    assert sweep(*GRID, folder=tmp_path).status == 143
    assert {(r["status"], r["iteration"]) for r in results(tmp_path / "sweep")} == {("interrupted", 33)}
    monkeypatch.undo()
    assert sweep(*GRID, folder=tmp_path).status == 0
    for number in range(4):
        assert_same_cell(tmp_path / "sweep" / str(number), fused / str(number))


def test_a_cell_of_an_interrupted_sweep_goes_on_alone(tmp_path, monkeypatch, fused):
    stop_at_33(monkeypatch)
    sweep(*GRID, folder=tmp_path)
    monkeypatch.undo()
    assert metarun(f"run.resume={tmp_path / 'sweep' / '2'}", folder=tmp_path).status == 0
    assert_same_cell(tmp_path / "sweep" / "2", fused / "2")
    # and the rest goes on without it
    outcome = sweep(*GRID, folder=tmp_path)
    assert outcome.status == 0
    assert "1 are done, 3 go on" in outcome.out
    assert read_result(tmp_path / "sweep" / "3")["replicas"] == 3
    assert_same_cell(tmp_path / "sweep" / "3", fused / "3")


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


def assert_same_cell_without_config(ours: Path, theirs: Path) -> None:
    x, y = (load(f / "checkpoint", "last") for f in (ours, theirs))
    for weight in x.weights:
        np.testing.assert_allclose(x.weights[weight], y.weights[weight], rtol=1e-8, atol=1e-10)
    assert read_result(ours)["mean"] == pytest.approx(read_result(theirs)["mean"], rel=1e-8)


def test_another_sweep_in_the_same_folder_is_refused_and_nothing_is_lost(fused):
    before = read_result(fused / "0")
    outcome = metarun(
        "-m", *SMALL, *FUSED, *GRID, "run.meta_batch_size=5", "hydra.sweep.dir=sweep", folder=fused.parent
    )
    assert outcome.status == 2
    assert "holds a run of another configuration" in outcome.err
    assert read_result(fused / "0") == before
    assert "meta_batch: 4" in (fused / "0" / ".hydra" / "config.yaml").read_text()


def test_a_program_that_fails_leaves_each_to_itself(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no batching rule for this")

    monkeypatch.setattr("metarun.fused.replicas.Replicas.program", lambda self: broken)
    outcome = sweep("algo=maml", "seed=0,1", "run.iterations=4", folder=tmp_path)
    assert outcome.status == 0
    assert "their program fails (no batching rule for this)" in outcome.err
    assert [r["replicas"] for r in results(tmp_path / "sweep")] == [1, 1]


def test_missing_data_is_said_once_and_leaves_no_folders(tmp_path):
    data = ("data=omniglot", "data.root=nowhere", "data.ways=3", "backbone.filters=4")
    outcome = sweep("algo=maml", "seed=0,1", *data, folder=tmp_path)
    assert outcome.status == 2
    assert outcome.err.count("nowhere") >= 1 and outcome.err.count("metarun: ") == 1
    assert not list(tmp_path.iterdir())


def test_each_cell_has_a_record_of_its_own_in_weights_and_biases(tmp_path):
    cells = ("algo=maml", "seed=0,1", "run.iterations=8", "tracker=wandb")
    outcome = sweep(*cells, folder=tmp_path)
    assert outcome.status == 0, outcome.err
    records = [list((tmp_path / "sweep" / str(n)).glob("wandb/offline-run-*/run-*.wandb")) for n in (0, 1)]
    assert [len(found) for found in records] == [1, 1]
    ids = [(tmp_path / "sweep" / str(n) / "checkpoint" / "tracker.json").read_text() for n in (0, 1)]
    assert ids[0] != ids[1]


def test_what_is_tested_is_the_best_not_the_last(tmp_path):
    cells = ("algo=maml", "seed=0,1", "optimizer.lr=0.5")  # so large that validation gets worse again
    assert sweep(*cells, folder=tmp_path).status == 0
    best, last = (load(tmp_path / "sweep" / "1" / "checkpoint", name) for name in ("best", "last"))
    assert best.about["iteration"] < last.about["iteration"]
    alone = small("algo=maml", "seed=1", "optimizer.lr=0.5", "device.precision=float64", folder=tmp_path)
    assert read_result(tmp_path / "sweep" / "1")["mean"] == pytest.approx(alone["mean"], rel=1e-7)
