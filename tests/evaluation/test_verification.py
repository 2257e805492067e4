"""ROC curve, equal error rate and threshold agree with counting pairs; no test pair chooses a threshold."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import SMALL, metarun
from referees import brentq, interp1d, roc_auc_score
from result_fields import FIELDS

from metarun.algos.siamese import Siamese
from metarun.evaluation.evaluate import evaluate
from metarun.evaluation.verification import Roc, accuracies, best_threshold, equal_error, evaluate_verification
from metarun.experiment.build import build, load_components, saved_config
from metarun.run_folder import read_result
from metarun.tracking.records import flat_result
from metarun.tracking.trackers import Trackers


def scored(tasks=20, pairs=50, gap=1.5, decimals=1, seed=0, shift=0.0):
    """Scores of balanced pairs, rounded so that many tie."""
    draw = np.random.default_rng(seed)
    same = np.tile(np.repeat([1.0, 0.0], pairs // 2), (tasks, 1))
    return {"scores": np.round(draw.normal(size=same.shape) + gap * same + shift, decimals), "same": same}


def pooled(values):
    return values["scores"].ravel(), values["same"].ravel()


def naive_curve(scores, same, weight) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By definition: at each distinct score count the pairs that score as much or more."""
    thresholds = np.array(sorted(set(scores), reverse=True))
    same = same == 1
    wrong = [weight[(scores >= at) & ~same].sum() / weight[~same].sum() for at in thresholds]
    right = [weight[(scores >= at) & same].sum() / weight[same].sum() for at in thresholds]
    return np.array([0.0, *wrong]), np.array([0.0, *right]), thresholds


@pytest.mark.parametrize("decimals", [0, 1, 8])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_curve_is_that_of_counting(decimals, weighted):
    scores, same = pooled(scored(decimals=decimals))
    weight = np.random.default_rng(1).integers(1, 4, len(scores)) if weighted else np.ones(len(scores))
    wrong, right, thresholds = naive_curve(scores, same, weight)
    ours = Roc.of(scores, same, weight if weighted else None)
    np.testing.assert_allclose(ours.false_positive_rate, wrong, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.true_positive_rate, right, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(ours.scores, thresholds)


def naive_threshold(scores, same) -> float:
    judged = {at: np.sum((scores >= at) == (same == 1)) for at in scores}
    return max(at for at, right in judged.items() if right == max(judged.values()))


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_the_threshold_is_that_of_counting(decimals):
    scores, same = pooled(scored(decimals=decimals))
    assert best_threshold(scores, same) == naive_threshold(scores, same)


@pytest.mark.slow
def test_only_verification_imports_scikit_learn():
    """It takes a second, for which other runs must not wait."""
    script = "import sys, metarun.evaluation.verification, metarun.experiment.result; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_weight_is_as_good_as_a_repetition():
    scores, same = pooled(scored(tasks=2))
    weight = np.random.default_rng(1).integers(0, 4, len(scores))
    ours, whole = Roc.of(scores, same, weight), Roc.of(scores.repeat(weight), same.repeat(weight))
    assert ours.equal_error_rate() == pytest.approx(whole.equal_error_rate())


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_the_equal_error_rate_is_where_both_errors_are_equal(decimals):
    scores, same = pooled(scored(decimals=decimals))
    wrong, right, _ = naive_curve(scores, same, np.ones(len(scores)))
    by_root = brentq(lambda x: 1 - x - interp1d(wrong, right)(x), 0, 1)
    assert Roc.of(scores, same).equal_error_rate() == pytest.approx(by_root, abs=1e-9)


def test_equal_errors_that_are_known():
    same = np.array([1, 1, 0, 0])
    assert Roc.of(np.array([3.0, 2, 1, 0]), same).equal_error_rate() == 0
    assert Roc.of(np.zeros(4), same).equal_error_rate() == 0.5  # tells nothing apart
    assert Roc.of(np.array([0.0, 1, 2, 3]), same).equal_error_rate() == 1
    assert Roc.of(np.array([3.0, 1, 2, 0]), same).equal_error_rate() == 0.5


def test_the_threshold_judges_the_most_pairs_rightly():
    values = scored()
    scores, same = pooled(values)
    threshold = best_threshold(scores, same)
    shares = {at: np.mean((scores >= at) == (same == 1)) for at in np.unique(scores)}
    assert shares[threshold] == max(shares.values())
    assert accuracies(**values, threshold=threshold).mean() == pytest.approx(shares[threshold])
    assert accuracies(**values, threshold=threshold)[3] == pytest.approx(
        np.mean((values["scores"][3] >= threshold) == (values["same"][3] == 1))
    )


def test_the_test_pairs_choose_no_threshold():
    test, val = scored(seed=1, shift=2.0), scored(seed=2)
    result = evaluate_verification(test, val)
    assert result.details["threshold"] == best_threshold(*pooled(val)) != best_threshold(*pooled(test))
    assert result.details["chosen_on"] == "val"
    np.testing.assert_array_equal(result.accuracy, accuracies(**test, threshold=result.details["threshold"]))
    best = accuracies(**test, threshold=best_threshold(*pooled(test))).mean()
    assert result.accuracy.mean() < best - 0.1  # a threshold chosen on the test pairs would flatter


def test_the_result_is_of_the_test_pairs():
    test, val = scored(seed=1), scored(seed=2, gap=3.0)
    details = evaluate_verification(test, val).details
    assert details["pairs"] == 1000
    assert details["eer"] == Roc.of(*pooled(test)).equal_error_rate() == evaluate_verification(test, val).eer["mean"]
    curve = details["roc"]
    area = np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"])
    assert area == pytest.approx(roc_auc_score(test["same"].ravel(), test["scores"].ravel()), abs=1e-3)


@pytest.mark.parametrize("decimals", [1, 8])
def test_a_thinned_curve_keeps_ends_and_shape(decimals):
    scores, same = pooled(scored(tasks=200, decimals=decimals))
    whole = Roc.of(scores, same)
    x, y = whole.thinned().values()
    assert len(x) == len(y) <= 200
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()
    between = np.interp(whole.false_positive_rate, x, y)
    assert np.abs(between - whole.true_positive_rate)[1:-1].mean() < 2e-3


def test_the_interval_covers_what_other_tasks_say():
    """Resampling one test set gives the spread of the rate over independent test sets."""
    rates = [Roc.of(*pooled(scored(seed=s, decimals=8))).equal_error_rate() for s in range(60)]
    interval = equal_error(**scored(seed=0, decimals=8))["ci95"]
    assert interval == pytest.approx(1.96 * np.std(rates, ddof=1), rel=0.35)
    assert equal_error(**scored(seed=0, decimals=8))["ci95"] == interval  # the same resamples every time


def test_tasks_are_resampled_not_pairs():
    """A task's pairs share its classes and are not independent: repeating each five times adds no information."""
    values = scored(decimals=8)
    repeated = {name: pairs.repeat(5, axis=1) for name, pairs in values.items()}
    assert equal_error(**repeated)["ci95"] == pytest.approx(equal_error(**values)["ci95"])


def test_what_makes_no_curve_is_refused():
    with pytest.raises(ValueError, match=r"same must be of pairs of both kinds; got \[1\.0\]"):
        Roc.of(np.arange(4.0), np.ones(4))
    with pytest.raises(ValueError, match="same must be of pairs of both kinds"):
        Roc.of(np.arange(4.0), np.array([1, 1, 0, 0]), np.array([1, 2, 0, 0]))
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=rf"scores must be finite numbers; got \[{bad}\]"):
            best_threshold(np.array([0.0, bad]), np.array([1, 0]))


# --------------------------------------------------------------------------------------------------- a run on pairs

PAIRS = (
    *(word for word in SMALL if not word.startswith(("data.queries", "run.iterations"))),
    *("algo=siamese", "data=synthetic_pairs", "backbone.filters=4", "run.iterations=20", "data.pair_batch_size=16"),
    *("data.pairs=10", "data.train_classes=20", "data.val_classes=10", "data.test_classes=10", "data.drawings=5"),
)


@pytest.fixture(scope="module")
def verified(tmp_path_factory) -> Path:
    """The folder of a small finished run on pairs."""
    folder = tmp_path_factory.mktemp("verified")
    outcome = metarun(*PAIRS, "hydra.run.dir=run", folder=folder, pictures=True)
    assert outcome.status == 0, outcome.err
    (folder / "out").write_text(outcome.out)
    return folder / "run"


@pytest.mark.slow
def test_a_run_on_pairs_reports_the_metrics_of_verification(verified):
    result = read_result(verified)
    assert set(result) == FIELDS | {"verification", "pairs"}
    assert (result["metric"], result["higher_is_better"], result["tasks"], result["pairs"]) == ("auc", True, 20, 10)
    assert set(result["metrics"]) == {"accuracy", "eer"}
    details = result["verification"]
    assert set(details) == {"threshold", "chosen_on", "pairs", "eer", "roc"}
    assert (details["chosen_on"], details["pairs"]) == ("val", 200)
    assert details["eer"] == result["metrics"]["eer"]["mean"] and result["metrics"]["eer"]["ci95"] > 0
    with np.load(verified / "episodes.npz") as episodes:
        scores, same, accuracy = episodes["scores"], episodes["same"], episodes["accuracy"]
        assert result["mean"] == pytest.approx(episodes["auc"].mean())
    assert scores.shape == same.shape == (20, 10) and (same.sum(1) == 5).all()
    np.testing.assert_allclose(accuracy[:, 0], ((scores >= details["threshold"]) == (same == 1)).mean(1))
    assert result["metrics"]["accuracy"]["mean"] == pytest.approx(accuracy.mean())


@pytest.mark.slow
def test_the_threshold_is_that_of_validation_pairs_under_the_tested_weights(verified):
    cfg, choices = saved_config(verified)
    data, learner = build(cfg, choices).data, load_components(verified)[0].learner
    values = {split: evaluate(learner, data, split, 20, 0).values for split in ("val", "test")}
    by_split = {split: best_threshold(v["scores"].ravel(), v["same"].ravel()) for split, v in values.items()}
    assert read_result(verified)["verification"]["threshold"] == pytest.approx(by_split["val"])
    assert by_split["val"] != pytest.approx(by_split["test"])


def test_a_run_on_pairs_logs_and_draws_and_prints_plain_numbers(verified):
    rows = [json.loads(line) for line in (verified / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "train/auc" in row] == [7, 14, 20]
    assert [row["iteration"] for row in rows if "val/auc" in row] == [20]
    assert {"roc.png", "scores.png", "learning_curve.png"} <= {path.name for path in verified.iterdir()}
    out = (verified.parent / "out").read_text()
    assert "10 pairs, partition glyphs, seed 0" in out
    assert re.search(r"auc +[01]\.\d+ ± ", out) and re.search(r"accuracy +\d+\.\d+% ± ", out)
    assert re.search(r"eer +0\.\d+ ± ", out)


@pytest.mark.slow
def test_a_tracker_gets_the_curve_and_the_figures_of_pairs(verified, tmp_path, monkeypatch):
    received: dict[str, list] = {"lines": [], "figure": [], "summary": []}
    for name, calls in received.items():
        monkeypatch.setattr(Trackers, name, lambda self, *args, calls=calls: calls.append(args))
    metarun(*PAIRS, f"run.evaluate={verified}", "hydra.run.dir=run", folder=tmp_path, pictures=True)
    ((name, x_name, lines),) = received["lines"]
    roc = read_result(verified)["verification"]["roc"]
    assert (name, x_name) == ("curve/roc", "false positive rate") and lines["chance"] == [(0, 0), (1, 1)]
    assert lines["pairs"] == list(zip(roc["false_positive_rate"], roc["true_positive_rate"], strict=True))
    assert [name for name, _ in received["figure"]] == ["roc", "scores"]
    summary = flat_result(received["summary"][0][0])
    assert {"test/auc", "test/auc_ci95", "test/eer", "test/eer_ci95", "test/accuracy"} <= set(summary)


def test_scores_that_are_no_numbers_end_a_run_on_pairs_as_diverged(verified, tmp_path, monkeypatch):
    monkeypatch.setattr(Siamese, "score_pairs", lambda self, x, random_inputs=(): x.flatten(1).sum(1) * torch.inf)
    assert metarun(*PAIRS, f"run.evaluate={verified}", "hydra.run.dir=run", folder=tmp_path).status == 3
    result = read_result(tmp_path / "run")
    assert "held-out tasks have predictions that are not finite" in result["error"] and "verification" not in result
    assert result["not_finite"] == result["tasks"] and result["mean"] is None


def test_pixels_are_compared_without_training_and_others_are_refused(tmp_path):
    words = [word for word in PAIRS if not word.startswith("algo=")]
    outcome = metarun(*words, "algo=nearest_centroid", "hydra.run.dir=run", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert read_result(tmp_path / "run")["metric"] == "auc"
    refusal = metarun("algo=maml", "data=synthetic_pairs", "tracker=none", folder=tmp_path)
    assert refusal.status == 2 and "synthetic_pairs is verification" in refusal.err
