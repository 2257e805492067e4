"""Nearest centroid on raw inputs: a classifier that learns nothing from other tasks.

Tibshirani, Hastie, Narasimhan, Chu: Diagnosis of multiple cancer types by shrunken centroids of gene
expression, PNAS 99(10), 2002, doi 10.1073/pnas.082099299, without the shrinkage; also prototypical networks
(Snell, Swersky, Zemel, NeurIPS 2017, arXiv 1703.05175, eq. 1 and 2) with the identity as embedding. Reference code:
sklearn.neighbors.NearestCentroid.

Inner problem:      c_k = mean of x over the support examples of class k
                    logit_k(x) = - || x - c_k ||^2;  for a pair: score(x, x') = - || x - x' ||^2
Outer problem:      none

    symbol   code          shape / unit
    x        support.x     [n, ...], flattened to [n, d]
    c        prototypes    [ways, d]

Differences from the papers
    - No shrinkage, Euclidean distance.
    - It also scores pairs, as the baseline of verification on raw inputs.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from metarun.layers.norm import MODES
from metarun.learner.embedding import class_means, squared_distances
from metarun.learner.learner import Backbone, Learner, Stage
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, Kind, TaskLoss


class NearestCentroid(Learner):
    """Predicts the class whose mean support image is nearest. It has no parameters.

    Every class must have a support example: the prototype of one that has none is NaN.

    Args:
        backbone: passed to every learner; not used, since distances are between raw inputs.
        ways: classes of a task, until the training loop or evaluation sets them.
        loss: the task loss, for reporting.
    """

    batch_norm_modes: ClassVar[tuple[str, ...]] = MODES
    stages: tuple[Stage, ...] = ()
    task_types: ClassVar[tuple[Kind, ...]] = ("classification", "verification")

    def __init__(self, backbone: Backbone, ways: int, loss: TaskLoss) -> None:
        super().__init__(loss)
        del backbone
        self.ways = ways

    def adapt(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        del random_inputs  # nearest centroid samples nothing
        prototypes = class_means(support.x.flatten(1), support.y, self.ways)
        return lambda query: -squared_distances(query.flatten(1), prototypes)

    def score_pairs(self, x: Tensor, random_inputs: Any = ()) -> Tensor:
        del random_inputs  # nearest centroid samples nothing
        first, second = x.flatten(2).unbind(1)
        return -(first - second).square().sum(1)
