"""What a run leaves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from commands import metarun, small
from result_fields import FIELDS
from run_checks import numbers, resume

import metarun as package
from metarun.run_folder import read_result
from metarun.tasks import Examples
from metarun.training import checkpoint


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


@pytest.mark.slow
def test_the_best_checkpoint_is_the_one_of_the_best_validation(unbroken):
    scores = {row["iteration"]: row["val/mse"] for row in numbers(unbroken) if "val/mse" in row}
    best = min(scores, key=lambda iteration: scores[iteration])
    assert checkpoint.load(unbroken / "checkpoint", "best").details["iteration"] == best
    assert read_result(unbroken)["validation"] == {"best": scores[best], "last": scores[250]}


def test_a_higher_accuracy_is_better(tmp_path):
    sizes = ("run.iterations=6", "run.validate_every=1", "backbone.filters=4", "algo.inner_lr=0.4")
    small("data=synthetic", *sizes, folder=tmp_path)
    scores = [row["val/accuracy"] for row in numbers(tmp_path / "run") if "val/accuracy" in row]
    assert checkpoint.load(tmp_path / "run" / "checkpoint", "best").details["best"] == max(scores)
    assert max(scores) > min(scores)


@pytest.mark.slow
def test_the_best_weights_are_tested_not_the_last(scripted, tmp_path):
    scripted(3.0, 1.0, 2.0)  # after 20, 40 and 60 iterations
    result = small(folder=tmp_path)
    folder = tmp_path / "run" / "checkpoint"
    best, last = (checkpoint.load(folder, name) for name in ("best", "last"))
    assert (best.details["iteration"], last.details["iteration"]) == (40, 60)
    assert (result["validation"]["best"], result["validation"]["last"]) == (1.0, 2.0)
    (folder / "best.json").unlink()
    assert small(f"run.evaluate={tmp_path / 'run'}", folder=tmp_path, name="last")["mean"] != result["mean"]


@pytest.mark.slow
def test_a_resumed_run_remembers_its_best(scripted, interrupted):
    best = checkpoint.load(interrupted / "checkpoint", "best").details["iteration"]
    scripted(*[1e9] * 20)
    assert resume(interrupted).status == 0
    assert checkpoint.load(interrupted / "checkpoint", "best").details["iteration"] == best == 20


@pytest.mark.slow
def test_keep_last_tests_the_last_weights(tmp_path):
    result = small("run.test_weights=last", folder=tmp_path)
    assert not checkpoint.exists(tmp_path / "run" / "checkpoint", "best")
    assert result["mean"] == small(f"run.evaluate={tmp_path / 'run'}", folder=tmp_path, name="again")["mean"]


# ------------------------------------------------------------------------------------------ not finite: no prediction

BLOWS_UP = (
    *(
        "algo=maml",
        "data=synthetic",
        "data.queries=5",
        "data.train_queries=5",
        "backbone=mlp",
        "backbone.hidden=[32,32]",
    ),
    *("algo.inner_lr=300", "algo.inner_steps=1", "run.iterations=10", "run.meta_batch_size=4", "run.validate_every=5"),
    *("run.eval_tasks=60", "run.val_tasks=60", "run.curve_steps=10", "run.log_every=5", "tracker=none"),
)


@pytest.mark.slow
def test_predictions_that_are_not_finite_are_no_class(tmp_path):
    """They had accuracy 20.00 +- 0.00, completed: the argmax of NaN is class 0."""
    outcome = metarun(*BLOWS_UP, "algo.eval_steps=10", "hydra.run.dir=run", folder=tmp_path, pictures=True)
    result = read_result(tmp_path / "run")
    assert (outcome.status, result["status"]) == (3, "diverged")
    assert 0 < result["not_finite"] <= result["tasks"] == 60
    assert (result["mean"], result["ci95"], result["median"]) == (None, None, None)
    said = f"{result['not_finite']} of 60 held-out tasks have predictions that are not finite"
    assert said in result["error"] and said in " ".join(outcome.out.split())
    with np.load(tmp_path / "run" / "episodes.npz") as episodes:
        at_headline = episodes["accuracy"][:, int(episodes["headline_step"])]
    assert np.isnan(at_headline).sum() == result["not_finite"]
    assert "calibration" not in result


def test_a_validation_with_such_tasks_is_counted_and_never_the_best(tmp_path):
    metarun(*BLOWS_UP, "algo.eval_steps=10", "hydra.run.dir=run", folder=tmp_path)
    rows = [row for row in numbers(tmp_path / "run") if "val/accuracy" in row]
    assert len(rows) == 2 and all(row["val/accuracy"] is None and row["val/not_finite"] > 0 for row in rows)
    assert read_result(tmp_path / "run")["validation"] == {"best": None, "last": None}
    assert not checkpoint.exists(tmp_path / "run" / "checkpoint", "best")


@pytest.mark.slow
def test_later_steps_that_are_not_finite_leave_gaps_and_the_headline_whole(tmp_path):
    outcome = metarun(*BLOWS_UP, "algo.eval_steps=1", "hydra.run.dir=run", folder=tmp_path, pictures=True)
    result = read_result(tmp_path / "run")
    assert (outcome.status, result["status"], result["not_finite"]) == (0, "completed", 0)
    assert result["mean"] == result["steps"][1]["mean"] is not None
    assert "not_finite" not in result["steps"][1]
    last = result["steps"][10]
    assert last["mean"] is None and last["not_finite"] > 0
    assert f"{last['not_finite']} tasks not finite" in outcome.out and "nan" not in outcome.out
