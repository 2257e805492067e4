"""Predictions of a learner on a few curves, after some adaptation steps or, without steps, given the support set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarun.learner.learner import Learner, to_device
from metarun.learner.prediction import Gaussian, Prediction, Samples
from metarun.sampling import stream_generator
from metarun.tasks import Task, TaskSet

SHOWN_STEPS = (0, 1, 10)
SHOWN_SAMPLES = 10


def adapted_curves(learner: Learner, data: TaskSet, tasks: int = 6, points: int = 200) -> list[dict[str, Any]]:
    """The learner's function on a few curves after 0, 1 and 10 steps, for `report.run_figures.adapted_curves`.

    Args:
        learner: a learner of the stream `episodes` (the input of the oracle is no line to draw over).
        data: source of the tasks, which are the same for every run.
        tasks: number of curves.
        points: points of the grid over x.

    Returns:
        For each curve the support set, the grid with the true function, `predictions` by step (0 alone for a learner
        that adapts at once), and for one that predicts a distribution `samples [S, points]` or `deviation [points]`
        after the last of these steps; empty where the data are no curves.
    """
    generator = stream_generator("cpu", "picture")
    if learner.evaluation_stream_for(data) != "episodes" or (curves := data.curves(tasks, points, generator)) is None:
        return []
    batch, titles = curves
    was_training = learner.training
    learner.eval()
    random_inputs = learner.random_inputs(batch, max(SHOWN_STEPS), generator)
    batch, random_inputs = to_device(learner.to_dtype((batch, random_inputs)), data.device)

    def predict(task: Task, random_inputs: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
        predictors = learner.trajectory(task.support, max(SHOWN_STEPS), random_inputs)
        predictions = [predictor(task.query.x) for predictor in predictors]
        last = max(step for step in SHOWN_STEPS if step < len(predictions))
        return [_point(prediction) for prediction in predictions], _spread(predictions[last])

    with torch.no_grad():
        values, spread = learner.map_tasks(predict, batch, random_inputs)
    learner.train(was_training)
    examples = []
    for t, title in enumerate(titles):
        (x, y), (grid, truth) = pytree.tree_map(lambda leaf, t=t: leaf[t, :, 0].cpu().numpy(), batch)
        predictions = {step: values[step][t, :, 0].cpu().numpy() for step in SHOWN_STEPS if step < len(values)}
        distribution = {name: value[t, ..., 0].cpu().numpy() for name, value in spread.items()}
        curve = {"x_support": x, "y_support": y, "x": grid, "y": truth}
        examples.append({**curve, "predictions": predictions, "title": title, **distribution})
    return examples


def _point(prediction: Prediction) -> Tensor:
    if isinstance(prediction, Gaussian):
        return prediction.mean
    return prediction.values.mean(0) if isinstance(prediction, Samples) else prediction


def _spread(prediction: Prediction) -> dict[str, Tensor]:
    """What a prediction holds beside the mean: `samples [S, n, 1]`, or `deviation [n, 1]` of a normal distribution."""
    if isinstance(prediction, Gaussian):
        return {"deviation": prediction.variance.sqrt()}
    return {"samples": prediction.values[:SHOWN_SAMPLES]} if isinstance(prediction, Samples) else {}
