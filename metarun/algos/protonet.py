"""Prototypical networks: a class is the mean of its embedded examples, and the nearest one wins.

Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning, NeurIPS 2017, arXiv 1703.05175. Official code:
github jakesnell/prototypical-networks (protonets/models/few_shot.py).

Inner problem, solved at once:
    c_k = mean of f(x) over the support examples of class k                          (eq. 1)
    p(y = k | x) = softmax_k( - || f(x) - c_k ||^2 / tau )                           (eq. 2, where tau = 1)
Outer problem, over tasks with query sets D':
    min_f  mean_i mean_{(x, y) in D'_i}  - log p(y | x)                              (algorithm 1)

    symbol   code         shape / unit
    f        self.net     the backbone without a last layer, to embeddings [n, d]
    c        centroids    [ways, d]
    tau      temperature  0-dim; 1 is the paper's

Differences from the paper
    - `temperature`, by which distances are divided (Oreshkin, Rodriguez, Lacoste: TADAM, NeurIPS 2018, eq. 2, where it
      is learned). Embeddings of 1,600 numbers start some 400 apart: softmax is saturated, and the first hundreds of
      steps shrink the embedding in place of learning it.
    - `run.meta_batch_size` tasks an outer step; the paper takes one.
    - The outer optimizer and its schedule are the run's (`optimizer`), training ways `data.train_ways`.
    - The official code stops when validation does not improve for 200 epochs; here training has a length, and the
      best weights by validation are tested.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metarun.learner.embedding import Embedding, class_means, squared_distances
from metarun.learner.learner import Backbone, require_positive
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss


class ProtoNet(Embedding):
    """Class scores are minus the squared Euclidean distances to the classes' mean embeddings.

    Every class must have a support example: the mean of one that has none is NaN.

    Args:
        backbone, ways, loss: as in `Embedding`.
        temperature: tau.

    Raises:
        ValueError: a temperature that is not above zero.
    """

    temperature: Tensor

    def __init__(self, backbone: Backbone, ways: int, loss: TaskLoss, temperature: float = 1.0) -> None:
        require_positive(temperature=temperature)
        super().__init__(backbone, ways, loss)
        self.register_hyperparameter("temperature", temperature)

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        del random_inputs  # draws nothing
        prototypes = class_means(support.x, support.y, self.ways)
        return lambda z: -squared_distances(z, prototypes) / self.temperature
