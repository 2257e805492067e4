"""One experiment from start to end: seeds, held-out tasks, divergence."""

from __future__ import annotations

import errno
import hashlib
import io
import json
from pathlib import Path

import pytest
import torch
from commands import SMALL, metarun, small
from run_checks import ALWAYS_SAVED, assert_same_run

import metarun as package
from metarun.experiment.build import build, saved_config
from metarun.experiment.trainer import Trainer
from metarun.learner.learner import Learner
from metarun.run_folder import read_result
from metarun.training import checkpoint
from metarun.training.loop import TrainState


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
    assert isinstance(package.load(tmp_path / "run").learner, Learner)


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
        assert kept.details["iteration"] < result["iteration"]
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
    assert kept.details["iteration"] == 29
    assert all(bool(torch.isfinite(value).all()) for value in kept.weights.values())


@pytest.mark.parametrize("algo", ["deml", "baseline"])
def test_too_few_base_classes_are_refused_before_the_start(algo, tmp_path):
    small_classes = ("data=synthetic", "data.train_classes=60", "algo.base_classes=59", "backbone.filters=4")
    outcome = metarun(*SMALL, f"algo={algo}", *small_classes, folder=tmp_path)
    message = "metarun: algo.base_classes must be at least 60, as many as there are training classes; got 59\n"
    assert (outcome.status, outcome.err) == (2, message)
    assert not list(tmp_path.rglob("result.json"))


# ---------------------------------------------------------------------------------- a result, and what comes after


def refuse_to_draw(*_):
    raise RuntimeError("no font\nat all")


@pytest.mark.slow
def test_a_picture_that_cannot_be_drawn_costs_neither_the_result_nor_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr("metarun.report.run_figures.step_curve", refuse_to_draw)
    outcome = metarun(*SMALL, "hydra.run.dir=run", folder=tmp_path, pictures=True)
    result = read_result(tmp_path / "run")
    assert (outcome.status, result["status"]) == (0, "completed") and result["mean"] is not None
    assert result["incomplete"] == ["step_curve.png: RuntimeError: no font at all"]
    told = [line for line in outcome.err.splitlines() if "step_curve.png" in line]
    assert len(told) == 1 and told[0].startswith("metarun: warning: ")
    assert "Traceback" in (tmp_path / "run" / "metarun.log").read_text()
    assert {"learning_curve.png", "adapted_curves.png"} <= {path.name for path in (tmp_path / "run").iterdir()}


AFTER = {
    "published": "the published figure",
    "adapted_curves": "the adapted curves",
    "calibration": "calibration",
    "print_result": "",
}


@pytest.mark.parametrize("name", AFTER)
def test_nor_does_anything_else_that_is_no_number_of_the_test(name, tmp_path, monkeypatch):
    monkeypatch.setattr(f"metarun.experiment.result.{name}", refuse_to_draw)
    result = small("run.iterations=2", folder=tmp_path)
    assert result["mean"] is not None
    assert [line.partition(":")[0] for line in result["incomplete"]] == ([AFTER[name]] if AFTER[name] else [])


def test_the_result_is_there_before_anything_is_drawn(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    monkeypatch.setattr("metarun.experiment.figures.pictures", killed)
    with pytest.raises(Killed):
        small("run.iterations=2", folder=tmp_path, pictures=True)
    assert read_result(tmp_path / "run")["status"] == "completed"


def test_the_report_of_a_failure_does_not_fail_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "train", lambda self: 1 / 0)
    monkeypatch.setattr("metarun.experiment.attempts.Path.open", refuse_to_write)
    outcome = metarun(*SMALL, "hydra.run.dir=run", folder=tmp_path)
    assert outcome.status == 1
    assert "cannot write run/result.json" in outcome.err.replace(f"{tmp_path}/", "")
    assert "Traceback" not in outcome.err


def refuse_to_write(self, mode="r", *arguments, **keywords):
    if self.name.startswith((".result.json", "metarun.log")):
        raise OSError(errno.ENOSPC, "No space left on device")
    return io.open(self, mode, *arguments, **keywords)  # noqa: UP020


def test_a_result_is_bound_to_what_it_is_of(tmp_path):
    result = small("run.iterations=2", folder=tmp_path)
    assert set(result["sha256"]) == {".hydra/config.yaml", "checkpoint/best-00000002.safetensors", "episodes.npz"}
    for name, digest in result["sha256"].items():
        assert hashlib.sha256((tmp_path / "run" / name).read_bytes()).hexdigest() == digest
