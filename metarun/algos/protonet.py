"""Prototypical networks: a class is the mean of its embedded support examples, and the nearest one wins.

Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning, NeurIPS 2017, arXiv 1703.05175. Official code:
github jakesnell/prototypical-networks (protonets/models/few_shot.py).

Inner problem, solved at once from the support set S, S_k its examples of class k:
    c_k = 1 / |S_k|  sum_{(x_i, y_i) in S_k} f_phi(x_i)                                            (eq. 1)
    p_phi(y = k | x) = softmax_k( - d(f_phi(x), c_k) / tau ),  d(z, z') = || z - z' ||^2           (eq. 2, for tau = 1)
Outer problem, over tasks with query sets Q (algorithm 1):
    min_phi  J(phi) = mean over (x, y) in Q of  - log p_phi(y | x)

    symbol     code                shape / unit
    f_phi      self.net            the backbone without a last layer, to embeddings [n, d]; phi its parameters
    S, Q       support, query      embedded: `x [n, d]` and `y [n]`
    c_k        prototypes          [ways, d]
    d          squared_distances   [m, ways], squared Euclidean
    tau        self.temperature    0-dim; 1 is the paper's

This file has eq. 1 and 2 up to the softmax, whose log is in the task loss (cross-entropy of the scores). Images are
embedded, and J is computed, by `Embedding`, which all learners of this kind share.

Differences from the paper
    - `temperature`, by which distances are divided (Oreshkin, Rodriguez, Lacoste: TADAM, NeurIPS 2018, eq. 2, where it
      is learned). Embeddings of 1,600 numbers start some 400 apart: softmax is saturated, and the first hundreds of
      steps shrink the embedding instead of learning it.
    - `run.meta_batch_size` tasks an outer step; the paper takes one.
    - The outer optimizer and its schedule are the run's (`optimizer`, `scheduler`), training ways `data.train_ways`.
    - The official code stops when validation has not improved for 200 epochs; here training has a length, and the best
      weights by validation are tested.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarun.checks import require_positive
from metarun.learner.embedding import Embedding
from metarun.learner.learner import Backbone
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss


class ProtoNet(Embedding):
    """Class scores are minus the squared Euclidean distances to the classes' prototypes.

    Every class must have a support example: the prototype of one that has none is NaN.

    Args:
        backbone, ways, loss: as in `Embedding`.
        temperature: tau.

    Raises:
        ValueError: a temperature that is not above 0.
    """

    temperature: Tensor

    def __init__(self, backbone: Backbone, ways: int, loss: TaskLoss, temperature: float = 1.0) -> None:
        require_positive("algo", temperature=temperature)
        super().__init__(backbone, ways, loss)
        self.register_hyperparameter("temperature", temperature)

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        del random_inputs  # prototypical networks sample nothing
        # Under vmap an index that depends on the data cannot pick out S_k; a product with one-hot labels can.
        one_hot = (support.y[:, None] == torch.arange(self.ways, device=support.y.device)).to(support.x.dtype)
        prototypes = (one_hot / one_hot.sum(0)).T @ support.x  # eq. 1

        def scores(z: Tensor) -> Tensor:
            # || z - c_k ||^2 multiplied out: the differences would take m ways d numbers. Both are moved by the mean of
            # the prototypes, about which rounding costs least.
            origin = prototypes.mean(0)
            a, b = z - origin, prototypes - origin
            squared_distances = a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T
            return -squared_distances / self.temperature  # eq. 2, before the softmax

        return scores
