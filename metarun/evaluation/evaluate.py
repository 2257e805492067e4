"""The metric of held-out tasks after 0, 1, ..., S adaptation steps, task by task and with its interval."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarun.evaluation.estimate import Estimate
from metarun.evaluation.metrics import CALIBRATION, INSIDE, METRICS, POOLED, sequence_metrics, verification
from metarun.layers.norm import batch_norms, inductive
from metarun.learner.learner import Learner, count_tasks, slice_tasks
from metarun.learner.prediction import Predictor
from metarun.sampling import stream_generator
from metarun.tasks import BLOCK, Batch, Kind, Pairs, Presentations, Split, Task, TaskSet

OF_A_DISTRIBUTION = ("nll", "coverage", INSIDE)  # NaN for a point prediction of which no variance is known


@dataclass
class Evaluation:
    """Metrics of held-out tasks: `values[name]` is `[tasks, steps + 1]`, column k after k adaptation steps.

    A learner that adapts at once has a single column; so have metrics taken at the headline's step only. Verification
    adds each pair's score and whether it is of one class, all others what calibration is made of (`POOLED`).
    """

    headline: str
    step: int
    values: dict[str, np.ndarray]
    episodes: str = ""  # hash of the tasks

    def __post_init__(self) -> None:
        self.values = {
            name: values
            for name, values in self.values.items()
            if name not in OF_A_DISTRIBUTION or not np.isnan(values).all()
        }

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics."""
        return [name for name in self.values if name not in POOLED]

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
    split: Split,
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
    steps = max_steps(learner, steps)

    def score(batch: Batch, random_inputs: Any) -> dict[str, np.ndarray]:
        return evaluate_batch(learner, data.kind, batch, random_inputs, steps, chunk, curve)

    return evaluate_with(score, learner, data, split, tasks, steps, on_block)


def max_steps(learner: Learner, steps: int) -> int:
    """Steps to look at so that the headline's are among them; none for a learner that adapts at once."""
    return max(steps, learner.eval_steps) if learner.eval_steps or learner.inner_steps else 0


def evaluate_with(
    score: Callable[[Batch, Any], dict[str, np.ndarray]],
    learner: Learner,
    data: TaskSet,
    split: Split,
    tasks: int,
    steps: int,
    on_block: Callable[[int], object] = lambda _done: None,
) -> Evaluation:
    """The loop of `evaluate`: `score(batch, noise)` gives metrics `[..., T, columns]`, joined along T."""
    digest = hashlib.sha256()
    collected: list[dict[str, np.ndarray]] = []
    was_training, ways = learner.training, learner.ways
    learner.eval()
    stream = learner.evaluation_stream_for(data)
    learner.ways = data.outputs(split, stream)
    try:
        for block, batch in _blocks(data, split, stream, tasks):
            random_inputs = learner.random_inputs(
                batch, steps, stream_generator(data.device, "evaluation", split, block)
            )
            batch, random_inputs = learner.to_dtype((batch, random_inputs))
            x, y = batch.query if isinstance(batch, Task) else (batch.x, batch.y)
            digest.update(y.cpu().numpy().tobytes())
            digest.update(x.double().sum(tuple(range(2, x.dim()))).cpu().numpy().tobytes())
            collected.append(score(batch, random_inputs))
            on_block(min((block + 1) * BLOCK, tasks))
    finally:
        learner.train(was_training)
        learner.ways = ways
    values = {name: np.concatenate([entry[name] for entry in collected], axis=-2) for name in collected[0]}
    return Evaluation(data.metric, learner.eval_steps, values, digest.hexdigest()[:16])


def _blocks(data: TaskSet, split: Split, stream: str, tasks: int) -> Iterator[tuple[int, Task | Pairs | Presentations]]:
    for block in range(-(-tasks // BLOCK)):
        batch = data.eval_block(split, stream, block)
        yield block, slice_tasks(batch, 0, min(BLOCK, tasks - block * BLOCK))


def evaluate_batch(
    learner: Learner,
    kind: Kind,
    batch: Batch,
    random_inputs: Any,
    steps: int,
    chunk: int | None = None,
    curve: bool = True,
) -> dict[str, np.ndarray]:
    """Metrics `[T, steps + 1]` of a batch of tasks after 0..steps adaptation steps; not `curve`: `[T, 1]`, the last.

    With the curve comes `accuracy_inductive`, `[T, 1]`, after `learner.eval_steps` steps only, for it costs as much.
    """
    size = chunk or count_tasks(batch)
    with torch.no_grad():
        parts = [
            batch_metrics(
                learner,
                kind,
                slice_tasks(batch, at, at + size),
                slice_tasks(random_inputs, at, at + size),
                steps,
                curve,
            )
            for at in range(0, count_tasks(batch), size)
        ]
    return {name: torch.cat([p[name] for p in parts]).double().cpu().numpy() for name in parts[0]}


def batch_metrics(
    learner: Learner, kind: Kind, batch: Batch, random_inputs: Any, steps: int, curve: bool
) -> dict[str, Tensor]:
    """As `evaluate_batch`, in one piece and as tensors."""
    if isinstance(batch, Presentations):
        return sequence_metrics(learner.predict_sequence(batch, random_inputs), batch, learner.ways)
    if kind == "verification":
        return learner.map_tasks(
            lambda pairs, random_inputs: verification(learner.score_pairs(pairs.x, random_inputs), pairs),
            batch,
            random_inputs,
        )
    judge, variance = METRICS[kind], learner.residual_variance

    def task_metrics(task: Task, random_inputs: Any) -> dict[str, Tensor]:
        predictors = list(learner.trajectory(task.support, steps, random_inputs))[0 if curve else -1 :]
        predicted = [predictor(task.query.x) for predictor in predictors]
        rows = [judge(prediction, task.query.y, variance) for prediction in predicted]
        columns = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        if curve:
            at = min(learner.eval_steps, len(predictors) - 1)
            columns |= CALIBRATION[kind](predicted[at], task.query.y, variance)
            if kind == "classification":
                alone = _inductive_accuracy(learner, predictors[at], task, columns["accuracy"][at])
                columns["accuracy_inductive"] = alone
        return columns

    return learner.map_tasks(task_metrics, batch, random_inputs)


def _inductive_accuracy(learner: Learner, predictor: Predictor, task: Task, transductive: Tensor) -> Tensor:
    """Accuracy `[1]` where no query sees another one's batch statistics: another figure only under such norms."""
    if not any(norm.mode == "batch" for norm in batch_norms(learner)):
        return transductive.unsqueeze(0)
    with inductive(learner):
        prediction = predictor(task.query.x)
        return METRICS["classification"](prediction, task.query.y, learner.residual_variance)["accuracy"].unsqueeze(0)


def has_headline_metric(kind: Kind, batch: Batch) -> bool:
    """Whether the kind's headline metric can be had of a batch: of episodes, or for verification of pairs."""
    return isinstance(batch, Pairs) if kind == "verification" else isinstance(batch, Task | Presentations)
