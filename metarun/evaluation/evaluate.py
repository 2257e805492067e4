"""Metrics of held-out tasks after 0, 1, ..., S adaptation steps, task by task and with intervals."""

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
from metarun.learner.learner import Learner, count_tasks, slice_tasks, to_device
from metarun.learner.prediction import Predictor
from metarun.sampling import stream_generator
from metarun.tasks import BLOCK, Batch, Kind, Pairs, Presentations, Split, Task, TaskSet

OF_A_DISTRIBUTION = ("nll", "coverage", INSIDE)  # NaN for a point prediction without a variance


@dataclass
class Evaluation:
    """Metrics of held-out tasks: `values[name]` is `[tasks, steps + 1]`, column k after k adaptation steps.

    A learner that adapts at once has a single column; so have metrics taken at the headline's step only. Verification
    adds each pair's score and whether it is of one class, the other kinds add the counts for calibration (`POOLED`).

    Args:
        headline: name of the headline metric.
        step: adaptation steps at which the headline is taken.
        values: metrics by name.
        episodes: hash of the tasks.
        groups: the group of each task (`TaskSet.groups`); empty: there are none.
    """

    headline: str
    step: int
    values: dict[str, np.ndarray]
    episodes: str = ""
    groups: tuple[str, ...] = ()

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

    def by_group(self) -> dict[str, Estimate]:
        """The headline of the tasks of each group, by the name METRIC/GROUP."""
        values, of_task = self.values[self.headline], np.array(self.groups)
        column = min(self.step, values.shape[1] - 1)
        groups = dict.fromkeys(self.groups)
        return {f"{self.headline}/{group}": Estimate.of(values[of_task == group, column]) for group in groups}

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
    task_micro_batch: int | None = None,
    curve: bool = True,
    on_block: Callable[[int], object] = lambda _done: None,
) -> Evaluation:
    """Evaluate a learner on the first `tasks` held-out tasks of a split.

    The tasks are the same for every learner, run and seed. The learner's random inputs are seeded by the block of
    tasks, so that the same learner always gets the same numbers.

    Args:
        learner: it is put into evaluation mode and back.
        data: source of the tasks.
        split: `val` or `test`.
        tasks: number of tasks.
        steps: the longest adaptation to evaluate; the headline is at `learner.eval_steps`.
        task_micro_batch: largest number of tasks in one forward pass, to bound memory; it does not change the numbers.
        curve: False evaluates the last step only, one column, which is much cheaper.
        on_block: called with the number of tasks done.
    """
    steps = max_steps(learner, steps)

    def score(batch: Batch, random_inputs: Any) -> dict[str, np.ndarray]:
        return evaluate_batch(learner, data.kind, batch, random_inputs, steps, task_micro_batch, curve)

    return evaluate_with(score, learner, data, split, tasks, steps, on_block)


def max_steps(learner: Learner, steps: int) -> int:
    """Steps to evaluate so that the headline's are among them; 0 for a learner that adapts at once."""
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
    """The loop of `evaluate` over blocks of tasks.

    Args:
        score: `score(batch, random_inputs)` returns metrics `[..., T, columns]`, which are joined along T.
        learner, data, split, tasks, steps, on_block: as in `evaluate`.
    """
    digest = hashlib.sha256()
    collected: list[dict[str, np.ndarray]] = []
    was_training, ways = learner.training, learner.ways
    learner.eval()
    stream = learner.evaluation_stream_for(data)
    learner.ways = data.outputs(split, stream)
    try:
        for block, batch in _blocks(data, split, stream, tasks):
            # On the CPU until here, so that a GPU is tested on the same tasks with the same random inputs.
            random_inputs = learner.random_inputs(batch, steps, stream_generator("cpu", "evaluation", split, block))
            batch, random_inputs = learner.to_dtype((batch, random_inputs))
            x, y = batch.query if isinstance(batch, Task) else (batch.x, batch.y)
            digest.update(y.numpy().tobytes())
            digest.update(x.double().sum(tuple(range(2, x.dim()))).numpy().tobytes())
            collected.append(score(*to_device((batch, random_inputs), data.device)))
            on_block(min((block + 1) * BLOCK, tasks))
    finally:
        learner.train(was_training)
        learner.ways = ways
    values = {name: np.concatenate([entry[name] for entry in collected], axis=-2) for name in collected[0]}
    return Evaluation(data.metric, learner.eval_steps, values, digest.hexdigest()[:16], data.groups(tasks))


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
    task_micro_batch: int | None = None,
    curve: bool = True,
) -> dict[str, np.ndarray]:
    """Metrics `[T, steps + 1]` of a batch of tasks after 0..steps adaptation steps; without `curve` `[T, 1]`, the last.

    With the curve comes `accuracy_inductive`, `[T, 1]`, after `learner.eval_steps` steps only: it costs as much again.
    """
    size = task_micro_batch or count_tasks(batch)
    with torch.no_grad():
        micro_batches = [
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
    names = micro_batches[0]
    return {name: torch.cat([values[name] for values in micro_batches]).double().cpu().numpy() for name in names}


def batch_metrics(
    learner: Learner, kind: Kind, batch: Batch, random_inputs: Any, steps: int, curve: bool
) -> dict[str, Tensor]:
    """As `evaluate_batch`, in one forward pass and as tensors."""
    if isinstance(batch, Presentations):
        return sequence_metrics(learner.predict_sequence(batch, random_inputs), batch, learner.ways)
    if kind == "verification":
        return learner.map_tasks(
            lambda pairs, random_inputs: verification(learner.score_pairs(pairs.x, random_inputs), pairs),
            batch,
            random_inputs,
        )
    metric, variance = METRICS[kind], learner.residual_variance

    def task_metrics(task: Task, random_inputs: Any) -> dict[str, Tensor]:
        predictors = list(learner.trajectory(task.support, steps, random_inputs))[0 if curve else -1 :]
        predicted = [predictor(task.query.x) for predictor in predictors]
        rows = [metric(prediction, task.query.y, variance) for prediction in predicted]
        columns = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        if curve:
            at = min(learner.eval_steps, len(predictors) - 1)
            columns |= CALIBRATION[kind](predicted[at], task.query.y, variance)
            if kind == "classification":
                accuracy = columns["accuracy"][at]
                columns["accuracy_inductive"] = _inductive_accuracy(learner, predictors[at], task, accuracy)
        return columns

    return learner.map_tasks(task_metrics, batch, random_inputs)


def _inductive_accuracy(learner: Learner, predictor: Predictor, task: Task, transductive: Tensor) -> Tensor:
    """Accuracy `[1]` where no query sees the batch statistics of others; it differs only for norms that use those."""
    if not any(norm.mode == "batch" for norm in batch_norms(learner)):
        return transductive.unsqueeze(0)
    with inductive(learner):
        prediction = predictor(task.query.x)
        return METRICS["classification"](prediction, task.query.y, learner.residual_variance)["accuracy"].unsqueeze(0)


def has_headline_metric(kind: Kind, batch: Batch) -> bool:
    """Whether a batch has the headline metric of its kind: episodes and sequences have, for verification pairs."""
    return isinstance(batch, Pairs) if kind == "verification" else isinstance(batch, Task | Presentations)
