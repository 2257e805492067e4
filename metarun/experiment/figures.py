"""Pictures and plots of a result that is there: nothing is computed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from metarun.evaluation.metrics import PAIRS
from metarun.experiment.attempts import Attempts
from metarun.experiment.result import Outcome
from metarun.report import run_figures
from metarun.tracking.trackers import Trackers

CALIBRATION_ERRORS = {"ece": "expected calibration error", "calibration_error": "mean calibration error"}
Lines = dict[str, list[tuple[float, float | None]]]


def draw_result(result: Outcome, folder: Path, trained: bool, attempt: Attempts | None = None) -> None:
    """Draw the PNGs of a run's folder; one that fails does not stop the others.

    Args:
        result: of the test.
        folder: the run's.
        trained: there is a learning curve to draw, of metrics.jsonl.
        attempt: draws each.
    """
    attempt = attempt or Attempts(folder)
    for name, draw in pictures(result, folder, trained):
        attempt(name, partial(draw, folder / name))


def pictures(result: Outcome, folder: Path, trained: bool) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """(file's name, what draws it there) of each picture that the result has."""
    evaluation, metric = result.evaluation, result.evaluation.headline
    if len(result.curve) > 1:
        yield "step_curve.png", lambda path: run_figures.step_curve(result.curve, metric, path)
    if trained:
        yield "learning_curve.png", lambda path: run_figures.learning_curve(folder / "metrics.jsonl", metric, path)
    if result.adapted_curves:
        yield "adapted_curves.png", lambda path: run_figures.adapted_curves(result.adapted_curves, path)
    if instances := instance_accuracies(result):
        yield "instances.png", lambda path: run_figures.instances(instances, result.chance or 0.0, path)
    if (pairs := result.verification) is not None:
        details = pairs.details
        scores, same = (evaluation.values[name].ravel() for name in PAIRS)
        error, threshold = evaluation.estimate().mean, details["threshold"]
        yield "roc.png", lambda path: run_figures.roc(details, error, path)
        yield "scores.png", lambda path: run_figures.pair_scores(scores[same == 1], scores[same == 0], threshold, path)
    if (found := result.calibration) is not None:
        title = f"{CALIBRATION_ERRORS[found.metric]} {found.error['mean']:.3f}"
        axes = calibration_axes(found.metric)
        yield "reliability.png", lambda path: run_figures.reliability(found.diagram, title, axes, path)


def track_result(result: Outcome, folder: Path, tracker: Trackers) -> None:
    """Give trackers the plots and tables of a result, and the PNGs that are drawn."""
    if len(result.curve) > 1:
        tracker.curve(result.evaluation.headline, result.curve)
    if result.verification is not None:
        curve = result.verification.details["roc"]
        points = zip(curve["false_positive_rate"], curve["true_positive_rate"], strict=True)
        lines: Lines = {"pairs": list(points), "chance": [(0, 0), (1, 1)]}
        tracker.lines("curve/roc", "false positive rate", lines)
    if instances := instance_accuracies(result):
        rows = [[k, row["mean"], row["ci95"]] for k, row in enumerate(instances, 1)]
        tracker.table("instances", ["instance", "accuracy", "ci95"], rows)
    if (found := result.calibration) is not None:
        claimed, share = calibration_axes(found.metric)
        measured = zip(found.diagram["claimed"], found.diagram["found"], strict=True)
        lines = {share: list(measured), "as claimed": [(0, 0), (1, 1)]}
        tracker.lines("curve/reliability", claimed, lines)
    for path in sorted(folder.glob("*.png")):
        tracker.figure(path.stem, path)


def instance_accuracies(result: Outcome) -> list[dict[str, float]]:
    """Accuracy by occurrence index within the class, from 1; empty where examples are not shown one by one."""
    names = [name for name in result.evaluation.metrics if name.startswith("instance_")]
    return [result.evaluation.estimate(name).as_dict() for name in names]


def calibration_axes(metric: str) -> tuple[str, str]:
    """Names of what is claimed and of what is measured."""
    return ("confidence", "accuracy") if metric == "ece" else ("level of the interval", "targets inside")
