"""The metric of held-out tasks after 0, 1, ..., S adaptation steps, task by task and with its interval."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metarun.algos.learner import Gaussian, Learner, Prediction, Predictor, Samples, count_tasks, slice_tasks
from metarun.backbones.norm import batch_norms, inductive
from metarun.results import Z95, Estimate
from metarun.tasks.task import BLOCK, Batch, Kind, Pairs, Part, Task, TaskSet, stream_generator

PAIRS = ("scores", "same")  # values of each pair `[tasks, pairs]`, no metric of a task: what pooled figures are made of


@dataclass
class Evaluation:
    """Metrics of held-out tasks: `values[name]` is `[tasks, steps + 1]`, column k after k adaptation steps.

    A learner that adapts at once has a single column; so have metrics taken at the headline's step only. Verification
    adds each pair's score and whether it is of one class (`PAIRS`).
    """

    headline: str
    step: int
    values: dict[str, np.ndarray]
    episodes: str = ""  # hash of the tasks

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics."""
        return [name for name in self.values if name not in PAIRS]

    def estimate(self, metric: str | None = None, step: int | None = None) -> Estimate:
        """Mean and interval of a metric (the headline) after a number of steps (where the headline is taken)."""
        values = self.values[metric or self.headline]
        return Estimate.of(values[:, min(self.step if step is None else step, values.shape[1] - 1)])

    def curve(self) -> list[dict[str, float]]:
        """The headline after each number of steps, as `result.json` has it."""
        columns = self.values[self.headline].shape[1]
        return [{"step": k, **self.estimate(step=k).as_dict()} for k in range(columns)]


def evaluate(
    learner: Learner,
    data: TaskSet,
    part: Part,
    tasks: int,
    steps: int,
    chunk: int | None = None,
    curve: bool = True,
    on_block: Callable[[int], object] = lambda _done: None,
) -> Evaluation:
    """Evaluate a learner on the first `tasks` held-out tasks of a part.

    The tasks are the same for every learner, run and seed. The learner's own random numbers are seeded by the
    block of tasks, so that the same learner always gets the same figures.

    Args:
        learner: it is put into evaluation mode and back.
        data: where the tasks come from.
        part: `val` or `test`.
        tasks: how many.
        steps: the longest adaptation to look at; the headline is at `learner.eval_steps`.
        chunk: at most so many tasks at a time, to bound memory; it does not change the numbers.
        curve: False scores the last of the steps only, one column, which is much cheaper.
        on_block: called with the number of tasks done.
    """
    steps = longest(learner, steps)

    def score(batch: Batch, noise: Any) -> dict[str, np.ndarray]:
        return evaluate_batch(learner, data.kind, batch, noise, steps, chunk, curve)

    return evaluate_by(score, learner, data, part, tasks, steps, on_block)


def longest(learner: Learner, steps: int) -> int:
    """Steps to look at so that the headline's are among them; none for a learner that adapts at once."""
    return max(steps, learner.eval_steps) if learner.eval_steps or learner.inner_steps else 0


def evaluate_by(
    score: Callable[[Batch, Any], dict[str, np.ndarray]],
    learner: Learner,
    data: TaskSet,
    part: Part,
    tasks: int,
    steps: int,
    on_block: Callable[[int], object] = lambda _done: None,
) -> Evaluation:
    """The loop of `evaluate`: `score(batch, noise)` gives metrics `[..., T, columns]`, joined along T."""
    digest = hashlib.sha256()
    collected: list[dict[str, np.ndarray]] = []
    was_training, ways = learner.training, learner.ways
    learner.eval()
    stream = learner.stream_on(data)
    learner.ways = data.outputs(part, stream)
    try:
        for block, batch in _blocks(data, part, stream, tasks):
            noise = learner.noise(batch, steps, stream_generator(data.device, "evaluation", part, block))
            batch, noise = learner.cast((batch, noise))
            x, y = batch if isinstance(batch, Pairs) else batch.query
            digest.update(y.cpu().numpy().tobytes())
            digest.update(x.double().sum(tuple(range(2, x.dim()))).cpu().numpy().tobytes())
            collected.append(score(batch, noise))
            on_block(min((block + 1) * BLOCK, tasks))
    finally:
        learner.train(was_training)
        learner.ways = ways
    values = {name: np.concatenate([entry[name] for entry in collected], axis=-2) for name in collected[0]}
    return Evaluation(data.metric, learner.eval_steps, values, digest.hexdigest()[:16])


def _blocks(data: TaskSet, part: Part, stream: str, tasks: int) -> Iterator[tuple[int, Task | Pairs]]:
    for block in range(-(-tasks // BLOCK)):
        batch = data.held_out(part, stream, block)
        yield block, slice_tasks(batch, 0, min(BLOCK, tasks - block * BLOCK))


def evaluate_batch(
    learner: Learner, kind: Kind, batch: Batch, noise: Any, steps: int, chunk: int | None = None, curve: bool = True
) -> dict[str, np.ndarray]:
    """Metrics `[T, steps + 1]` of a batch of tasks after 0..steps adaptation steps; not `curve`: `[T, 1]`, the last.

    With the curve comes `accuracy_inductive`, `[T, 1]`, after `learner.eval_steps` steps only, for it costs as much.
    """
    size = chunk or count_tasks(batch)
    with torch.no_grad():
        parts = [
            batch_metrics(
                learner, kind, slice_tasks(batch, at, at + size), slice_tasks(noise, at, at + size), steps, curve
            )
            for at in range(0, count_tasks(batch), size)
        ]
    return {name: torch.cat([p[name] for p in parts]).double().cpu().numpy() for name in parts[0]}


def batch_metrics(learner: Learner, kind: Kind, batch: Batch, noise: Any, steps: int, curve: bool) -> dict[str, Tensor]:
    """As `evaluate_batch`, in one piece and as tensors."""
    if kind == "verification":
        return learner.over_tasks(partial(_verification, learner), batch, noise)

    def task_metrics(task: Task, noise: Any) -> dict[str, Tensor]:
        predictors = list(learner.trajectory(task.support, steps, noise))[0 if curve else -1 :]
        rows = [METRICS[kind](predictor(task.query.x), task.query.y) for predictor in predictors]
        columns = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        if curve and kind == "classification":
            at = min(learner.eval_steps, len(predictors) - 1)
            columns["accuracy_inductive"] = _inductive_accuracy(learner, predictors[at], task, columns["accuracy"][at])
        return columns

    return learner.over_tasks(task_metrics, batch, noise)


def _inductive_accuracy(learner: Learner, predictor: Predictor, task: Task, transductive: Tensor) -> Tensor:
    """Accuracy `[1]` where no query sees another one's batch statistics: another figure only under such norms."""
    if not any(norm.mode == "batch" for norm in batch_norms(learner)):
        return transductive.unsqueeze(0)
    with inductive(learner):
        return METRICS["classification"](predictor(task.query.x), task.query.y)["accuracy"].unsqueeze(0)


def _classification(prediction: Prediction, y: Tensor) -> dict[str, Tensor]:
    """Accuracy and negative log-likelihood (nats) of class scores `[n, ways]`; samples average as probabilities."""
    if isinstance(prediction, Samples):
        log_p = prediction.values.log_softmax(-1).logsumexp(0) - np.log(len(prediction.values))
    else:
        assert isinstance(prediction, Tensor)  # a Gaussian is for regression
        log_p = prediction.log_softmax(-1)
    accuracy = (log_p.argmax(-1) == y).to(log_p.dtype).mean()
    return {"accuracy": accuracy, "nll": -log_p.gather(-1, y.unsqueeze(-1)).mean()}


def _regression(prediction: Prediction, y: Tensor) -> dict[str, Tensor]:
    """Mean squared error of the point prediction; for a predictive distribution its negative log-likelihood too.

    And `coverage`, the share of targets in its central 95 % interval: more is too wide, less too sure of itself.
    """
    if isinstance(prediction, Gaussian):
        square = (y - prediction.mean).square() / prediction.variance
        nll = 0.5 * (square + (2 * np.pi * prediction.variance).log()).mean()  # torch's own fails under vmap
        inside = (square <= Z95**2).to(square.dtype).mean()
        return {"mse": F.mse_loss(prediction.mean, y), "nll": nll, "coverage": inside}
    if isinstance(prediction, Samples):
        prediction = prediction.values.mean(0)
    return {"mse": F.mse_loss(prediction, y)}


def _verification(learner: Learner, pairs: Pairs, noise: Any) -> dict[str, Tensor]:
    """Area under the ROC curve `[1]` of a set of pairs, and what `PAIRS` names."""
    scores = learner.verify(pairs.x, noise)
    return {"auc": area_under_roc(scores, pairs.y).unsqueeze(0), "scores": scores, "same": pairs.y.to(scores.dtype)}


def area_under_roc(scores: Tensor, y: Tensor) -> Tensor:
    """Share of (same, different) pairs of pairs in which the same one scores higher; ties count half (Mann-Whitney).

    NaN where a score is, or where `y` holds one kind only.
    """
    ordered, same = scores.sort().values, y.to(scores.dtype)
    below, upto = (torch.searchsorted(ordered, scores, right=right).to(scores.dtype) for right in (False, True))
    pairs, alike = len(scores), same.sum()
    ranks = (below + upto + 1) / 2  # from 1; tied scores share the mean of their ranks
    area = ((ranks * same).sum() - alike * (alike + 1) / 2) / (alike * (pairs - alike))
    return torch.where(scores.isnan().any(), torch.nan, area)


def judges(kind: Kind, batch: Batch) -> bool:
    """Whether the kind's headline metric can be had of a batch: of episodes, or for verification of pairs."""
    return isinstance(batch, Pairs if kind == "verification" else Task)


METRICS: dict[str, Callable[[Any, Tensor], dict[str, Tensor]]] = {
    "classification": _classification,
    "regression": _regression,
}
