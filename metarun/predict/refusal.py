"""When a query is far from every class: the least score of its best class, calibrated on a run's validation tasks.

The score is the highest logit of a query; of predictions that are averaged over samples, the highest log-probability.
A threshold is the quantile of it that a given share of queries of known classes falls below, in validation tasks with
as many classes and examples as the user's. In the same tasks, queries of one class more, which the support set lacks,
say how many strangers that threshold refuses. Nothing is promised beyond that: the user's pictures may be unlike those
of the run.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarun.data.class_tasks import ClassTasks
from metarun.evaluation.metrics import log_probabilities
from metarun.experiment.trained import AdaptedLearner, TrainedLearner
from metarun.learner.prediction import Prediction, Samples
from metarun.sampling import stream_generator
from metarun.tasks import DataError, Examples, Task

TASKS = 100  # of validation


@dataclass(frozen=True)
class Refusal:
    """A threshold and what it does on validation tasks.

    Attributes:
        threshold: queries whose `score` is below it are refused.
        known: share of queries of the support set's classes that are refused, as it was asked for.
        strangers: share of queries of another class that are refused.
        area: area under the ROC curve of the score, known against strangers; 0.5 is chance.
        ways, shots: of the validation tasks.
    """

    threshold: float
    known: float
    strangers: float
    area: float
    ways: int
    shots: int

    def __str__(self) -> str:
        return (
            f"on {TASKS} validation tasks ({self.ways}-way {self.shots}-shot) this refuses {100 * self.known:.0f} % of "
            f"the queries of known classes and {100 * self.strangers:.0f} % of those of another class "
            f"(area under the ROC curve {self.area:.2f}; chance is 0.50)"
        )


def score(prediction: Prediction) -> Tensor:
    """How near queries are to their best class, `[n]`: the highest logit or, of samples, log-probability."""
    scores = log_probabilities(prediction) if isinstance(prediction, Samples) else prediction
    assert isinstance(scores, Tensor)
    return scores.amax(-1)


def calibrate(trained: TrainedLearner, share: float, ways: int, shots: int) -> Refusal:
    """The threshold that refuses a share of the queries of known classes.

    Args:
        trained: the learner, whose data must be there.
        share: of known queries that may be refused, in (0, 1).
        ways, shots: the user's; fewer where the validation classes do not have as many.

    Raises:
        DataError: the run's data is not there.
        ValueError: it draws no such tasks.
    """
    from sklearn.metrics import roc_auc_score  # takes a second

    known, strangers = [], []
    for task in _tasks(trained, ways, shots):
        adapted, inside = _adapted(trained, task)
        scores = score(adapted(task.query.x)).cpu()
        known.append(scores[inside])
        strangers.append(scores[~inside])
        ways = len(adapted.classes)
    near, far = (torch.cat(scores).double().numpy() for scores in (known, strangers))
    threshold = float(np.quantile(near, share))
    area = roc_auc_score(np.r_[np.ones(len(near)), np.zeros(len(far))], np.r_[near, far])
    refused, refused_strangers = (float((scores < threshold).mean()) for scores in (near, far))
    return Refusal(threshold, refused, refused_strangers, area, ways, shots)


def _tasks(trained: TrainedLearner, ways: int, shots: int) -> list[Task]:
    """Validation tasks of one class more than the user's, or of as many as there are."""
    data = copy(trained.data)  # the same examples, drawn with other sizes
    if not isinstance(data, ClassTasks):
        raise ValueError(f"--reject needs tasks of classes to calibrate on; data={trained.choices['data']} has none")
    try:
        data.prepare({"val": ["episodes"]})
        data.ways, data.shots = min(ways + 1, len(data.classes("val"))), shots
        batch = data.sample("val", "episodes", TASKS, stream_generator("cpu", "reject"))
    except DataError as error:
        raise DataError(f"--reject is calibrated on the run's validation tasks: {error}") from error
    assert isinstance(batch, Task)
    return [Task(*(Examples(part.x[at], part.y[at]) for part in batch)) for at in range(TASKS)]


def _adapted(trained: TrainedLearner, task: Task) -> tuple[AdaptedLearner, Tensor]:
    """A learner adapted to all classes of a task but the last, and which queries are of these."""
    last = int(task.support.y.max())
    kept = task.support.y < last
    return trained.adapt(task.support.x[kept], task.support.y[kept]), task.query.y < last
