"""One experiment, from its configuration to its result; and a run that was stopped equals one that was not."""

from __future__ import annotations

import errno
import itertools
import json
import math
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import SMALL, Outcome, metarun, small, start
from hydra.utils import get_class
from PIL import Image
from result_fields import FIELDS

import metarun as package
from metarun.experiment import session as run
from metarun.experiment.build import build, saved_config
from metarun.learner.learner import Learner
from metarun.run_folder import read_result
from metarun.tasks import Examples, Task
from metarun.training import checkpoint
from metarun.training.loop import TrainState

# A learner too small to be slow, saved after every iteration: a process can be killed anywhere.
ALWAYS_SAVED = (*SMALL, "run.checkpoint_seconds=0", "backbone.hidden=[8]", "run.iterations=250", "run.log_every=7")


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoint", name).weights


def assert_same_weights(a: Path, b: Path, name: str = "last") -> None:
    first, second = weights(a, name), weights(b, name)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def numbers(folder: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what a clock decides."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def assert_same_run(a: Path, b: Path) -> None:
    """Everything that a run leaves and no clock decides is the same to the last bit."""
    assert_same_weights(a, b)
    assert_same_weights(a, b, "best")
    assert numbers(a) == numbers(b)
    timed = {"train_seconds", "compile_seconds", "iterations_per_second", "peak_memory_mb", "overrides", "commit"}
    first, second = (
        {key: value for key, value in read_result(folder).items() if key not in timed} for folder in (a, b)
    )
    assert first == second
    with np.load(a / "episodes.npz") as one, np.load(b / "episodes.npz") as other:
        assert set(one) == set(other)
        assert all(np.array_equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a small finished run with its pictures."""
    folder = tmp_path_factory.mktemp("finished")
    small(folder=folder, pictures=True)
    return folder / "run"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    """The run that the stopped ones are compared with."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert metarun(*ALWAYS_SAVED, "hydra.run.dir=run", folder=folder).status == 0
    return folder / "run"


# ------------------------------------------------------------------------------------------ what a run leaves


def test_the_result_has_the_fields_of_the_design(finished):
    result = read_result(finished)
    assert set(result) == FIELDS | {"calibration"}
    assert {"nll", "coverage", "calibration_error"} == set(result["metrics"])
    assert (result["status"], result["error"], result["iteration"]) == ("completed", None, None)
    assert (result["algo"], result["data"], result["backbone"]) == ("maml", "sinusoid", "mlp")
    assert (result["metric"], result["tasks"], result["iterations"]) == ("mse", 20, 60)
    assert [row["step"] for row in result["steps"]] == [0, 1, 2]
    assert set(result["steps"][0]) == {"step", "mean", "ci95", "median"}
    assert result["steps"][result["step"]]["mean"] == result["mean"]
    assert result["iterations_per_second"] > 0
    assert "run.iterations=60" in result["overrides"]
    assert {"torch", "learn2learn", "metarun"} <= set(result["versions"])


def test_points_are_judged_by_the_variance_of_validation_errors(finished):
    """The nll of a normal distribution about the prediction, whose variance is the tested weights' validation error."""
    result = read_result(finished)
    variance, mse = result["validation"]["best"], result["mean"]
    assert result["metrics"]["nll"]["mean"] == pytest.approx(
        0.5 * (np.log(2 * np.pi * variance) + mse / variance), rel=1e-4
    )
    assert len(result["calibration"]["claimed"]) == 19 and (finished / "reliability.png").is_file()


def test_a_run_on_sequences_reports_every_instance(tmp_path):
    words = ("algo=lstm", "data=clusters", "algo.units=8", "run.iterations=5", "run.eval_tasks=40", "tracker=none")
    outcome = metarun(*words, "hydra.run.dir=run", folder=tmp_path, pictures=True)
    assert outcome.status == 0 and "instance_6" in outcome.out
    result = read_result(tmp_path / "run")
    assert result["metrics"]["instance_2"] == {
        "mean": result["mean"],
        "ci95": result["ci95"],
        "median": result["median"],
    }
    assert (tmp_path / "run" / "instances.png").is_file() and "calibration" not in result
    learner = package.load(tmp_path / "run")
    support = Examples(torch.randn(3, 32), torch.arange(3))
    assert learner.adapt(support)(torch.randn(7, 32)).shape == (7, 3)


def test_the_folder_has_everything_about_the_run(finished):
    names = {path.name for path in finished.iterdir()}
    wanted = {".hydra", "metrics.jsonl", "checkpoint", "episodes.npz", "result.json", "adapted_curves.png"}
    assert wanted <= names
    assert [row["iteration"] for row in numbers(finished) if "train/loss" in row] == [*range(7, 60, 7), 60]
    assert [row["iteration"] for row in numbers(finished) if "val/mse" in row] == [20, 40, 60]


def test_the_headline_is_the_mean_over_the_recorded_episodes(finished):
    result = read_result(finished)
    with np.load(finished / "episodes.npz") as episodes:
        values = episodes["mse"][:, int(episodes["headline_step"])]
    assert result["mean"] == pytest.approx(values.mean())
    assert result["ci95"] == pytest.approx(1.96 * values.std(ddof=1) / math.sqrt(20), rel=1e-3)


def test_the_best_checkpoint_is_the_one_of_the_best_validation(unbroken):
    scores = {row["iteration"]: row["val/mse"] for row in numbers(unbroken) if "val/mse" in row}
    best = min(scores, key=lambda iteration: scores[iteration])
    assert checkpoint.load(unbroken / "checkpoint", "best").about["iteration"] == best
    assert read_result(unbroken)["validation"] == {"best": scores[best], "last": scores[250]}


def test_a_higher_accuracy_is_better(tmp_path):
    sizes = ("run.iterations=6", "run.validate_every=1", "backbone.filters=4", "algo.inner_lr=0.4")
    small("data=synthetic", *sizes, folder=tmp_path)
    scores = [row["val/accuracy"] for row in numbers(tmp_path / "run") if "val/accuracy" in row]
    assert checkpoint.load(tmp_path / "run" / "checkpoint", "best").about["best"] == max(scores)
    assert max(scores) > min(scores)


@pytest.fixture
def scripted(monkeypatch):
    """scripted(values): what the validations of the next runs say, whatever the learner does."""

    def script(*values: float) -> None:
        describe_job = iter(values)

        def evaluate(self, part, *arguments):
            evaluation = original(self, part, *arguments)
            if part == "val":
                evaluation.values["mse"][:] = next(describe_job)
            return evaluation

        monkeypatch.setattr(run.Experiment, "_evaluate", evaluate)

    original = run.Experiment._evaluate
    return script


def test_the_best_weights_are_tested_not_the_last(scripted, tmp_path):
    scripted(3.0, 1.0, 2.0)  # after 20, 40 and 60 iterations
    result = small(folder=tmp_path)
    folder = tmp_path / "run" / "checkpoint"
    best, last = (checkpoint.load(folder, name) for name in ("best", "last"))
    assert (best.about["iteration"], last.about["iteration"]) == (40, 60)
    assert (result["validation"]["best"], result["validation"]["last"]) == (1.0, 2.0)
    (folder / "best.json").unlink()
    assert small(f"run.evaluate={tmp_path / 'run'}", folder=tmp_path, name="last")["mean"] != result["mean"]


def test_a_resumed_run_remembers_its_best(scripted, interrupted):
    best = checkpoint.load(interrupted / "checkpoint", "best").about["iteration"]
    scripted(*[1e9] * 20)
    assert resume(interrupted).status == 0
    assert checkpoint.load(interrupted / "checkpoint", "best").about["iteration"] == best == 20


def test_keep_last_tests_the_last_weights(tmp_path):
    result = small("run.test_weights=last", folder=tmp_path)
    assert not checkpoint.exists(tmp_path / "run" / "checkpoint", "best")
    assert result["mean"] == small(f"run.evaluate={tmp_path / 'run'}", folder=tmp_path, name="again")["mean"]


# --------------------------------------------------------------------------------------- seeds and held-out tasks


def first_tasks(folder: Path):
    """The training tasks that a run starts with."""
    cfg, choices = saved_config(folder)
    components = build(cfg, choices)
    training = TrainState.create(
        components.learner, components.meta_optimizer, components.device.torch_device, components.seed
    )
    batch = components.data.sample("train", "episodes", 4, training.generators["tasks/episodes"])
    return components.learner.state_dict(), batch


def test_two_seeds_differ_in_weights_and_tasks_but_not_in_held_out_tasks(finished, tmp_path):
    result = small("seed=1", folder=tmp_path)
    ours, ours_batch = first_tasks(finished)
    theirs, theirs_batch = first_tasks(tmp_path / "run")
    assert all(not torch.equal(ours[key], theirs[key]) for key in ours if key.endswith("weight"))
    assert not torch.equal(ours_batch.support.x, theirs_batch.support.x)
    assert result["episodes"] == read_result(finished)["episodes"]
    assert result["mean"] != read_result(finished)["mean"]


def test_the_same_seed_gives_the_same_numbers(finished, tmp_path):
    small(folder=tmp_path)
    assert_same_run(finished, tmp_path / "run")


@pytest.mark.parametrize("algo", ["joint", "oracle", "scratch", "learn2learn/maml"])
def test_every_algorithm_is_tested_on_the_same_tasks(algo, finished, tmp_path):
    result = small(f"algo={algo}", "run.iterations=2", folder=tmp_path)
    if algo != "oracle":  # its inputs hold the answer, so its tasks hash differently
        assert result["episodes"] == read_result(finished)["episodes"]


def test_a_learner_without_parameters_runs(tmp_path):
    result = small("algo=nearest_centroid", "data=synthetic", "backbone.filters=4", folder=tmp_path)
    assert (result["parameters"], result["iterations"], result["status"]) == (0, 0, "completed")
    assert result["mean"] > 0.25
    assert isinstance(package.load(tmp_path / "run"), Learner)


# ------------------------------------------------------------------------------- a finished run's weights again


def test_the_loaded_learner_predicts_what_the_run_measured(finished):
    cfg, choices = saved_config(finished)
    components = build(cfg, choices)
    state = torch.get_rng_state()
    learner = package.load(finished)
    assert torch.equal(torch.get_rng_state(), state)  # loading leaves the caller's random numbers alone
    assert not learner.training
    batch = components.data.eval_block("test", "episodes", 0)
    errors = []
    for t in range(20):
        task = Task(*(Examples(*(leaf[t] for leaf in part)) for part in batch))
        predicted = learner.adapt(task.support)(task.query.x).detach()
        errors.append(float((predicted - task.query.y).square().mean()))
    assert np.mean(errors) == pytest.approx(read_result(finished)["mean"], rel=1e-5)


def test_a_learner_is_loaded_where_its_data_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = tmp_path / "images"
    for part, colour in itertools.product(("train", "val", "test"), range(5)):
        (images / part / str(colour)).mkdir(parents=True)
        for number in range(3):
            picture = Image.new("L", (16, 16), 40 * colour + number)
            picture.save(images / part / str(colour) / f"{number}.png")
    small(
        *("data=imagefolder", f"data.root={images}", "data.size=16", "data.channels=1", "data.queries=2"),
        *("backbone.filters=4", "run.iterations=1"),
        folder=tmp_path,
    )
    shutil.rmtree(images)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    learner = package.load(tmp_path / "run")
    support = Examples(torch.rand(5, 1, 16, 16), torch.arange(5))
    assert learner.adapt(support)(torch.rand(3, 1, 16, 16)).shape == (3, 5)


def test_evaluate_tests_a_finished_run_again_in_a_folder_of_its_own(finished, tmp_path):
    before = sorted((path.name, path.stat().st_mtime_ns) for path in finished.rglob("*"))
    again = small(f"run.evaluate={finished}", folder=tmp_path)
    assert again["mean"] == read_result(finished)["mean"]
    assert again["iterations"] == 0
    assert sorted((path.name, path.stat().st_mtime_ns) for path in finished.rglob("*")) == before
    outcome = metarun(f"run.evaluate={finished}", "run.eval_tasks=40", "hydra.run.dir=more", folder=tmp_path)
    assert outcome.status == 0
    more = read_result(tmp_path / "more")
    assert (more["tasks"], more["threads"], more["seed"]) == (40, 1, 0)  # the run's own settings hold
    assert more["episodes"] != again["episodes"]


def test_init_from_starts_with_another_runs_weights_and_its_own_numbers(finished, tmp_path):
    small(f"run.init_from={finished}", "run.iterations=1", "optimizer.lr=1e-12", "algo.inner_lr=0.02", folder=tmp_path)
    for key, value in weights(finished, "best").items():
        if key != "progress":
            assert torch.allclose(value, weights(tmp_path / "run")[key], atol=1e-10), key
    assert float(package.load(tmp_path / "run").inner_lr) == pytest.approx(0.02)


def test_evaluate_of_a_run_that_was_started_from_another_takes_its_own_weights(finished, tmp_path):
    result = small(f"run.init_from={finished}", "seed=3", "optimizer.lr=0.01", folder=tmp_path)
    again = small(f"run.evaluate={tmp_path / 'run'}", folder=tmp_path, name="again")
    assert again["mean"] == result["mean"] != read_result(finished)["mean"]


def test_weights_of_another_shape_are_refused(finished, tmp_path):
    outcome = metarun(*SMALL, f"run.init_from={finished}", "backbone.hidden=[3]", folder=tmp_path)
    assert outcome.status == 2
    assert "cannot start from" in outcome.err
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("cause", ["algo.inner_lr=1e20", "optimizer.lr=1e10"])
def test_a_run_that_diverges_says_where_and_keeps_the_last_good_checkpoint(cause, tmp_path):
    outcome = metarun(*ALWAYS_SAVED, cause, "hydra.run.dir=run", folder=tmp_path)
    text = (tmp_path / "run" / "result.json").read_text()
    result = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in result.json"))
    assert (outcome.status, result["status"]) == (3, "diverged")
    assert result["mean"] is None
    assert result["error"] in (f"the loss became {bad} at iteration {result['iteration']}" for bad in ("inf", "nan"))
    if checkpoint.exists(tmp_path / "run" / "checkpoint", "last"):
        kept = checkpoint.load(tmp_path / "run" / "checkpoint", "last")
        assert kept.about["iteration"] < result["iteration"]
        assert all(bool(torch.isfinite(value).all()) for value in kept.weights.values())
    else:
        assert result["iteration"] == 1


def test_weights_that_became_nan_do_not_overwrite_the_good_ones(tmp_path, monkeypatch):
    step = torch.optim.Adam.step
    calls = []

    def poisoned(self, *arguments, **keywords):
        step(self, *arguments, **keywords)
        calls.append(None)
        if len(calls) == 30:
            self.param_groups[0]["params"][0].data.fill_(float("nan"))

    monkeypatch.setattr(torch.optim.Adam, "step", poisoned)
    assert metarun(*ALWAYS_SAVED, "hydra.run.dir=run", folder=tmp_path).status == 3
    assert read_result(tmp_path / "run")["iteration"] == 30
    kept = checkpoint.load(tmp_path / "run" / "checkpoint", "last")
    assert kept.about["iteration"] == 29
    assert all(bool(torch.isfinite(value).all()) for value in kept.weights.values())


# ------------------------------------------------------------------------------------------ stopped, and going on


def wait_for(folder: Path, iteration: int, process) -> None:
    """Until the process has saved that iteration."""
    pointer = folder / "checkpoint" / "last.json"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if pointer.is_file() and json.loads(pointer.read_text())["iteration"] >= iteration:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    raise TimeoutError


def stop(folder: Path, iteration: int, signum: int, *arguments: str, **environment: str) -> tuple[int, str]:
    """Start a process, send it a signal at (or soon after) an iteration; its exit status and errors."""
    process = start(*arguments, folder=folder.parent, **environment)
    try:
        wait_for(folder, iteration, process)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, errors


def resume(folder: Path, *arguments: str) -> Outcome:
    return metarun(f"run.resume={folder}", *arguments, folder=folder.parent)


def test_a_run_killed_again_and_again_equals_an_unbroken_one(unbroken, tmp_path):
    folder = tmp_path / "run"
    at = random.Random(time.time_ns()).sample(range(1, 200), 2)  # anywhere: what fails once is a bug
    print("killed at", sorted(at))
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


def test_a_compiled_run_killed_equals_an_unbroken_one(tmp_path):
    compiled = [*ALWAYS_SAVED, "run.iterations=60", "device.compile=true"]
    folder = tmp_path / "run"
    status, _ = stop(folder, 25, signal.SIGKILL, *compiled, "hydra.run.dir=run")
    assert status == -signal.SIGKILL
    assert resume(folder).status == 0
    assert metarun(*compiled, "hydra.run.dir=unbroken", folder=tmp_path).status == 0
    assert read_result(folder)["compiled"] is True
    assert_same_run(folder, tmp_path / "unbroken")


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
    assert 14 <= result["iteration"] == checkpoint.load(folder / "checkpoint", "last").about["iteration"] <= 250
    assert signal.Signals(signum).name in result["error"]
    assert resume(folder).status == 0
    assert_same_run(folder, unbroken)


@pytest.fixture
def interrupted(tmp_path, monkeypatch) -> Path:
    """The folder of a run that stopped after 33 iterations, with its last checkpoint at 33."""
    save = run.Experiment.save

    def stop_at_33(self, name):
        save(self, name)
        if name == "last" and self.training.iteration == 32:  # heard after the next step
            self.caught.append(signal.SIGTERM)

    monkeypatch.setattr(run.Experiment, "save", stop_at_33)
    assert metarun(*ALWAYS_SAVED, "hydra.run.dir=run", folder=tmp_path).status == 143
    monkeypatch.undo()
    return tmp_path / "run"


def test_a_resumed_run_takes_back_what_was_logged_after_its_checkpoint(interrupted, unbroken):
    with (interrupted / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 35, "train/loss": 1.0}\n{"iteration": 42, "train/lo')  # killed while writing
    assert resume(interrupted).status == 0
    assert_same_run(interrupted, unbroken)


@pytest.mark.parametrize(
    ("override", "had"),
    [("seed=1", "seed=0"), ("algo=fomaml", "algo=maml"), ("run.iterations=300", "run.iterations=250")],
)
def test_an_override_that_contradicts_the_run_is_refused(override, had, interrupted):
    outcome = resume(interrupted, override)
    assert outcome.status == 2
    assert override in outcome.err and had in outcome.err
    assert checkpoint.load(interrupted / "checkpoint", "last").about["iteration"] == 33


def test_an_override_that_agrees_with_the_run_is_accepted(interrupted, unbroken):
    assert resume(interrupted, "seed=0", "algo=maml", "run.iterations=250", "optimizer.lr=1e-3").status == 0
    assert_same_run(interrupted, unbroken)


def test_a_multirun_cannot_resume(interrupted):
    outcome = resume(interrupted, "-m")
    assert outcome.status == 2
    assert "multirun" in outcome.err


def test_resuming_a_completed_run_says_so_and_changes_nothing(finished):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and path.suffix != ".log"}
    outcome = resume(finished)
    assert outcome.status == 0
    assert "is completed" in outcome.out
    after = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and path.suffix != ".log"}
    assert after == before


def test_a_run_killed_before_its_first_checkpoint_starts_anew_from_where_it_was_to_start(
    finished, tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    def killed(self, *arguments):
        raise Killed

    started = ["seed=2", f"run.init_from={finished}", "hydra.run.dir=run"]
    monkeypatch.setattr(run.Experiment, "save", killed)
    with pytest.raises(Killed):
        metarun(*SMALL, *started, folder=tmp_path)
    monkeypatch.undo()
    assert resume(tmp_path / "run").status == 0
    small("seed=2", f"run.init_from={finished}", folder=tmp_path, name="unbroken")
    assert_same_run(tmp_path / "run", tmp_path / "unbroken")


def test_a_path_with_commas_and_quotes_can_be_resumed(interrupted, unbroken):
    odd = interrupted.rename(interrupted.with_name("a run, 'mine' = this"))
    assert resume(odd).status == 0
    assert_same_run(odd, unbroken)


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


def test_the_learners_class_is_the_configured_one(finished):
    assert isinstance(package.load(finished), get_class("metarun.algos.maml.MAML"))
