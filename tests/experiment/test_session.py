"""A run that was stopped equals one that was not."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
from commands import SMALL, metarun, small, start
from PIL import Image
from run_checks import ALWAYS_SAVED, assert_same_run, numbers, resume, stop
from small import components_of

import metarun as package
from metarun.experiment.session import Experiment
from metarun.run_folder import read_result
from metarun.training import checkpoint

# Where processes are killed: another place with another seed, always the same with the same.
KILL_SEED = int(os.environ.get("METARUN_KILL_SEED", "0"))


def test_a_run_killed_again_and_again_equals_an_unbroken_one(unbroken, tmp_path):
    folder = tmp_path / "run"
    at = random.Random(KILL_SEED).sample(range(1, 200), 2)
    print(f"killed at {sorted(at)}, METARUN_KILL_SEED={KILL_SEED}")
    arguments = [*ALWAYS_SAVED, "hydra.run.dir=run"]
    for iteration in sorted(at):
        status, _ = stop(folder, iteration, signal.SIGKILL, *arguments)
        assert status == -signal.SIGKILL
        assert not (folder / "result.json").exists()
        arguments = ["run.resume=run"]
    before = {path: path.read_bytes() for path in (folder / ".hydra").iterdir()}
    assert resume(folder).status == 0
    assert {path: path.read_bytes() for path in (folder / ".hydra").iterdir()} == before
    assert_same_run(folder, unbroken)
    assert not [path for path in (folder / "checkpoint").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_compiled_run_killed_equals_an_unbroken_one(tmp_path):
    compiled = [*ALWAYS_SAVED, "run.iterations=60", "device.compile=true"]
    folder = tmp_path / "run"
    status, _ = stop(folder, 25, signal.SIGKILL, *compiled, "hydra.run.dir=run")
    assert status == -signal.SIGKILL
    assert resume(folder).status == 0
    assert metarun(*compiled, "hydra.run.dir=unbroken", folder=tmp_path).status == 0
    assert read_result(folder)["compiled"] is True
    assert_same_run(folder, tmp_path / "unbroken")


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "wanted"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_run_goes_on_from_there(signum, wanted, unbroken, tmp_path):
    folder = tmp_path / "run"
    rarely = [word for word in ALWAYS_SAVED if "checkpoint_seconds" not in word]
    process = start(*rarely, "run.checkpoint_seconds=3600", "hydra.run.dir=run", folder=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "metrics.jsonl").is_file() or len(numbers(folder)) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signum)
        process.communicate(timeout=60)
    finally:
        process.kill()
    result = read_result(folder)
    assert (process.returncode, result["status"]) == (wanted, "interrupted")
    assert 14 <= result["iteration"] == checkpoint.load(folder / "checkpoint", "last").details["iteration"] <= 250
    assert signal.Signals(signum).name in result["error"]
    assert resume(folder).status == 0
    assert_same_run(folder, unbroken)


@pytest.mark.slow
def test_a_resumed_run_takes_back_what_was_logged_after_its_checkpoint(interrupted, unbroken):
    with (interrupted / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 35, "train/loss": 1.0}\n{"iteration": 42, "train/lo')  # killed while writing
    assert resume(interrupted).status == 0
    assert_same_run(interrupted, unbroken)


@pytest.mark.parametrize(
    ("override", "had"),
    [("seed=1", "seed=0"), ("algo=fomaml", "algo=maml"), ("run.iterations=200", "run.iterations=250")],
)
def test_an_override_that_contradicts_the_run_is_refused(override, had, interrupted):
    outcome = resume(interrupted, override)
    assert outcome.status == 2
    assert override in outcome.err and had in outcome.err
    assert checkpoint.load(interrupted / "checkpoint", "last").details["iteration"] == 33


@pytest.mark.slow
def test_an_override_that_agrees_with_the_run_is_accepted(interrupted, unbroken):
    assert resume(interrupted, "seed=0", "algo=maml", "run.iterations=250", "optimizer.lr=1e-3").status == 0
    assert_same_run(interrupted, unbroken)


def test_a_multirun_cannot_resume(interrupted):
    outcome = resume(interrupted, "-m")
    assert outcome.status == 2
    assert "multirun" in outcome.err


@pytest.mark.slow
def test_resuming_a_completed_run_says_so_and_changes_nothing(finished):
    def contents():
        held = (".log", ".lock")  # that it was held is no change
        return {
            path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and not path.name.endswith(held)
        }

    before = contents()
    outcome = resume(finished)
    assert outcome.status == 0
    assert "is completed" in outcome.out
    assert contents() == before


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_anew_from_where_it_was_to_start(
    finished, tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    def killed(self, *arguments):
        raise Killed

    started = ["seed=2", f"run.init_from={finished}", "hydra.run.dir=run"]
    monkeypatch.setattr(Experiment, "save", killed)
    with pytest.raises(Killed):
        metarun(*SMALL, *started, folder=tmp_path)
    monkeypatch.undo()
    assert resume(tmp_path / "run").status == 0
    small("seed=2", f"run.init_from={finished}", folder=tmp_path, name="unbroken")
    assert_same_run(tmp_path / "run", tmp_path / "unbroken")


@pytest.mark.slow
def test_a_path_with_commas_and_quotes_can_be_resumed(interrupted, unbroken):
    odd = interrupted.rename(interrupted.with_name("a run, 'mine' = this"))
    assert resume(odd).status == 0
    assert_same_run(odd, unbroken)


@pytest.mark.slow
def test_a_full_disk_fails_the_run_which_can_go_on(unbroken, tmp_path, monkeypatch):
    def full(folder, name, iteration, *rest):
        if iteration >= 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(folder, name, iteration, *rest)

    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", full)
    outcome = metarun(*ALWAYS_SAVED, "hydra.run.dir=run", folder=tmp_path)
    monkeypatch.undo()
    result = read_result(tmp_path / "run")
    assert (outcome.status, result["status"], result["iteration"]) == (1, "failed", 40)
    assert "No space left" in result["error"]
    assert resume(tmp_path / "run").status == 0
    assert_same_run(tmp_path / "run", unbroken)


# ------------------------------------------------------------------------------------------------- damaged folders


def write(name, content):
    def damage(folder):
        (folder / name).write_bytes(content)

    return damage


def edit(name, old, new):
    def damage(folder):
        content = (folder / name).read_bytes()
        assert old in content
        (folder / name).write_bytes(content.replace(old, new, 1))

    return damage


def truncate(pattern):
    def damage(folder):
        (path,) = folder.glob(pattern)
        path.write_bytes(path.read_bytes()[:-9])

    return damage


LAST = ["run.evaluate=", "`best` is whole", "delete"]
DAMAGE = {
    "pointer cut off": (truncate("checkpoint/last.json"), ["last.json is damaged", *LAST]),
    "pointer edited": (edit("checkpoint/last.json", b'"compiled": false', b'"compiled": true'), ["was changed", *LAST]),
    "weights cut off": (truncate("checkpoint/last-*.safetensors"), [".safetensors is damaged", *LAST]),
    "state cut off": (truncate("checkpoint/last-*.state"), [".state is damaged", *LAST]),
    "another seed": (edit(".hydra/config.yaml", b"seed: 0", b"seed: 7"), ["config.yaml was changed", "resume it"]),
    "another rate": (edit(".hydra/config.yaml", b"lr: 0.001", b"lr: 0.1"), ["config.yaml was changed"]),
    "configuration cut off": (write(".hydra/config.yaml", b"seed: [0"), ["config.yaml", "damaged"]),
    "no choices": (write(".hydra/hydra.yaml", b"[]"), ["hydra.yaml", "damaged"]),
    "result a list": (write("result.json", b"[1]"), ["result.json is damaged", "Delete it"]),
    "result half": (write("result.json", b'{"status": "comp'), ["result.json is damaged", "Delete it"]),
    "metrics": (write("metrics.jsonl", b"{\n{}\n{}\n"), ["metrics.jsonl, line 1", "Delete the line"]),
    "tracker": (write("checkpoint/tracker.json", b"{"), ["tracker.json is damaged"]),
}


@pytest.mark.slow
def test_a_damaged_run_is_refused_by_name_in_one_line(interrupted, tmp_path):
    for name, (damage, words) in DAMAGE.items():
        folder = shutil.copytree(interrupted, tmp_path / "damaged" / name)
        damage(folder)
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        outcome = resume(folder)
        assert outcome.status == 2, (name, outcome)
        assert outcome.err.startswith("metarun: ") and outcome.err.count("\n") == 1, (name, outcome.err)
        assert all(word in outcome.err for word in words), (name, outcome.err)
        after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
        assert {path for path in after if after[path] != before.get(path)} == set(), name


@pytest.mark.slow
def test_what_the_refusal_advises_works(interrupted, unbroken, tmp_path):
    truncate("checkpoint/last-*.state")(interrupted)
    tested = metarun(f"run.evaluate={interrupted}", "hydra.run.dir=tested", folder=tmp_path)
    assert tested.status == 0, tested.err
    shutil.rmtree(interrupted / "checkpoint")
    assert resume(interrupted).status == 0
    assert_same_run(interrupted, unbroken)


@pytest.mark.slow
def test_weights_that_are_damaged_are_not_tested(interrupted, tmp_path):
    truncate("checkpoint/best-*.safetensors")(interrupted)
    outcome = metarun(f"run.evaluate={interrupted}", "hydra.run.dir=tested", folder=tmp_path)
    assert outcome.status == 2 and "best-00000020.safetensors is damaged" in outcome.err
    assert "`last` is whole" in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "tested").exists()
    with pytest.raises(checkpoint.CheckpointError, match="best-00000020"):
        package.load(interrupted)
    (interrupted / "checkpoint" / "best.json").unlink()
    assert package.load(interrupted) is not None


@pytest.mark.slow
def test_what_a_killed_process_left_half_written_is_removed(interrupted):
    (interrupted / ".step_curve.png.k3j_x9ab").write_text("")
    (interrupted / ".hydra.0a1b2c3d").mkdir()
    assert resume(interrupted).status == 0
    names = {path.name for path in interrupted.iterdir()}
    assert not {".step_curve.png.k3j_x9ab", ".hydra.0a1b2c3d"} & names


def write_image_folders(root, images):
    """Six classes of 8 x 8 grey images; `images` of each, by split."""
    random_pixels = np.random.RandomState(0)
    for split, counts in images.items():
        for c, count in enumerate(counts):
            (root / split / f"{split}{c}").mkdir(parents=True)
            for i in range(count):
                pixels = random_pixels.randint(256, size=(8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / f"{split}{c}" / f"{i}.png")


@pytest.mark.slow
def test_a_run_asks_for_no_more_data_than_it_draws(tmp_path):
    """Classes too small for episodes serve a learner of mini-batches; a test needs the test images alone."""
    write_image_folders(tmp_path / "data", {"train": [2] * 6, "val": [11] * 6, "test": [11] * 6})
    mlp = ("data=imagefolder", "data.size=8", "data.channels=1", "backbone=mlp", "backbone.hidden=[8]")
    how = (*mlp, "run.iterations=2", "algo=pretrain", "data.root=data")
    assert small(*how, folder=tmp_path)["status"] == "completed"
    (tmp_path / "only").mkdir()
    (tmp_path / "data" / "test").rename(tmp_path / "only" / "test")
    evaluated = small("run.evaluate=run", "data.root=only", folder=tmp_path, name="evaluated")
    assert (evaluated["status"], evaluated["mean"]) == ("completed", read_result(tmp_path / "run")["mean"])
    refused = metarun(*SMALL, *how, "data.root=only", "hydra.run.dir=again", folder=tmp_path)
    assert refused.status == 2 and "images of split 'train' not found" in refused.err


@pytest.mark.parametrize(
    ("algo", "iterations", "needed"),
    [
        ("maml", 10, {"train": {"episodes"}, "val": {"episodes"}, "test": {"episodes"}}),
        ("maml", 0, {"test": {"episodes"}}),
        ("pretrain", 10, {"train": {"batches"}, "val": {"episodes"}, "test": {"episodes"}}),
        ("nearest_centroid", 0, {"test": {"episodes"}}),
    ],
)
def test_the_streams_that_a_run_draws(algo, iterations, needed):
    components = components_of(algo)
    run = SimpleNamespace(learner=components.learner, data=components.data, iterations=iterations)
    assert Experiment.needed(run) == needed
    run.data = SimpleNamespace(kind="verification", evaluation_stream="pairs")
    assert iterations or Experiment.needed(run)["val"] == Experiment.needed(run)["test"]
