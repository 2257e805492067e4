"""Pictures of what a learner predicts, before and after adaptation, and of how far it can be believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarun import figures
from metarun.algos.learner import Gaussian, Learner, Prediction, Samples
from metarun.calibration import Calibration
from metarun.evaluate import Evaluation
from metarun.tasks.task import Task, TaskSet, stream_generator
from metarun.tracking.tracker import Tracker

SHOWN_STEPS = (0, 1, 10)
SHOWN_SAMPLES = 10


def adapted_curves(learner: Learner, data: TaskSet, path: Path, tasks: int = 6, points: int = 200) -> None:
    """Draw the learner's function on a few curves before and after 1 and 10 steps; nothing where there are none.

    Of a learner that predicts a distribution, the last of them shows it too: sampled functions, or a 95 % band.

    Args:
        learner: a learner of the stream `episodes` (the oracle's input is no line to draw over).
        data: where the tasks come from, the same ones for every run.
        path: the PNG to write.
        tasks: how many.
        points: of the grid over x.
    """
    generator = stream_generator(data.device, "picture")
    if learner.stream_on(data) != "episodes" or (drawn := data.curves(tasks, points, generator)) is None:
        return
    batch, titles = drawn
    was_training = learner.training
    learner.eval()
    noise = learner.noise(batch, max(SHOWN_STEPS), generator)
    batch, noise = learner.cast((batch, noise))

    def curves(task: Task, noise: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
        predictors = learner.trajectory(task.support, max(SHOWN_STEPS), noise)
        predicted = [predictor(task.query.x) for predictor in predictors]
        shown = max(step for step in SHOWN_STEPS if step < len(predicted))
        return [_point(prediction) for prediction in predicted], _spread(predicted[shown])

    with torch.no_grad():
        values, spread = learner.over_tasks(curves, batch, noise)
    examples = []
    for t, title in enumerate(titles):
        (x, y), (grid, truth) = pytree.tree_map(lambda leaf, t=t: leaf[t, :, 0].cpu().numpy(), batch)
        shown = {step: values[step][t, :, 0].cpu().numpy() for step in SHOWN_STEPS if step < len(values)}
        beside = {name: value[t, ..., 0].cpu().numpy() for name, value in spread.items()}
        known = {"x_support": x, "y_support": y, "x": grid, "y": truth}
        examples.append({**known, "predictions": shown, "title": title, **beside})
    learner.train(was_training)
    figures.adapted_curves(examples, path)


def _point(prediction: Prediction) -> Tensor:
    if isinstance(prediction, Gaussian):
        return prediction.mean
    return prediction.values.mean(0) if isinstance(prediction, Samples) else prediction


def _spread(prediction: Prediction) -> dict[str, Tensor]:
    """What there is beside the mean: `samples [S, n, 1]`, or `deviation [n, 1]` of a normal distribution."""
    if isinstance(prediction, Gaussian):
        return {"deviation": prediction.variance.sqrt()}
    return {"samples": prediction.values[:SHOWN_SAMPLES]} if isinstance(prediction, Samples) else {}


def reliability(found: Calibration, path: Path, tracker: Tracker) -> None:
    """The reliability diagram, as PNG and as the tracker's plot."""
    names = ("confidence", "accuracy") if found.metric == "ece" else ("level of the interval", "targets inside")
    figures.reliability(found.about, f"{found.metric.replace('_', ' ')} {found.error['mean']:.3f}", names, path)
    points: list[tuple[float, float | None]] = list(zip(found.about["claimed"], found.about["found"], strict=True))
    tracker.lines("curve/reliability", names[0], {names[1]: points, "as claimed": [(0, 0), (1, 1)]})


def instances(scores: Evaluation, ways: int, path: Path, tracker: Tracker) -> None:
    """Accuracy by the how-manieth of its class an example is, as PNG and table; nothing where none are counted."""
    names = [name for name in scores.metrics if name.startswith("instance_")]
    if not names:
        return
    estimates = [scores.estimate(name).as_dict() for name in names]
    figures.instances(estimates, 1 / ways, path)
    rows = [[k, row["mean"], row["ci95"]] for k, row in enumerate(estimates, 1)]
    tracker.table("instances", ["instance", "accuracy", "ci95"], rows)
