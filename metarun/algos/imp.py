"""IMP, infinite mixture prototypes: each class is a mixture of clusters whose number is inferred from its examples.

Allen, Shelhamer, Shin, Tenenbaum: Infinite Mixture Prototypes for Few-Shot Learning, ICML 2019, arXiv 1902.04552.
Official code: github k-r-allen/imp (fewshot/models/imp.py).

Inner problem, one pass (DP-means with soft assignments), z = f(x), d its dimension, sigma the clusters' variance:
    m_k = mean of z over the support examples of class k, the first cluster of class k
    lambda = - 2 sigma log(alpha) + d sigma log(1 + rho / sigma),   rho the variance of the m_k, mean over dimensions
    for every support example i:  if || z_i - m ||^2 > lambda for all clusters m of its class, z_i opens a cluster
    q_ic = softmax_c( - || z_i - m_c ||^2 / (2 sigma) )  over the clusters of i's class
    mu_c = sum_i q_ic z_i / sum_i q_ic                   clusters with sum_i q_ic <= 0.001 are dropped
Outer problem, over tasks with query sets D'; the clusters of class k are c in k:
    min_{f, sigma}  mean_i mean_{(x, y) in D'_i}  - log softmax_k( max_{c in k}  - || f(x) - mu_c ||^2 / (2 sigma) )_y

lambda, the choice of clusters and q carry no gradient: f receives it through the z in mu and through queries, sigma
through the last line. With one shot, mu_k = z_k: prototypical networks with distances divided by 2 sigma.

    symbol      code               shape / unit
    f           self.net           the backbone without a last layer, to embeddings [n, d]
    alpha       self.alpha         0-dim, concentration
    sigma       self.log_sigma     0-dim, its logarithm, learned; the same for all clusters
    m, mu       centres, clusters  [ways + n, d]: the class means, and a slot for each support example
    c in k      owner              [ways + n, ways]: one-hot class of each cluster; rows of zeros are empty slots
    lambda      threshold          0-dim
    q           weight             [n, ways + n]

Differences from the paper
    - Examples open clusters farthest from their class's clusters first (ties at once), whatever the order of the
      support set; in the official code, in the order of the support set.
    - Unlabelled examples, and hence a separate sigma for them, are not implemented.
    - An outer step takes `run.meta_batch_size` tasks. Optimizer and schedule are the run's; the official code uses
      RMSprop.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metarun.checks import require, require_positive
from metarun.learner.embedding import Embedding, class_means, one_hot, squared_distances
from metarun.learner.learner import Backbone, exact
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss

MIN_WEIGHT = 1e-3  # clusters of at most this weight are dropped, as in the official code


class IMP(Embedding):
    """A class score is minus the squared distance to the class's nearest cluster, over twice the variance.

    All classes must have the same number of support examples (in a class of more than n / ways examples, not all could
    open clusters), and there must be at least two classes, as rho is a variance between them.

    Args:
        backbone, ways, loss: as in `Embedding`.
        alpha: the smaller, the farther from its class's clusters an example must be to open one.
        sigma: the clusters' variance at initialisation.

    Raises:
        ValueError: alpha outside (0, 1], or a sigma that is not above 0.
    """

    init_only_args: ClassVar[tuple[str, ...]] = ("sigma",)
    alpha: Tensor

    def __init__(self, backbone: Backbone, ways: int, loss: TaskLoss, alpha: float, sigma: float) -> None:
        require_positive("algo", alpha=alpha, sigma=sigma)
        require("algo.alpha", alpha, alpha <= 1, "at most 1, or examples at distance 0 would open clusters")
        super().__init__(backbone, ways, loss)
        self.register_hyperparameter("alpha", alpha)
        self.log_sigma = nn.Parameter(exact(math.log(sigma)))

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        del random_inputs  # draws nothing
        clusters, owner = self.mixture(support)

        def predict(z: Tensor) -> Tensor:
            scores = -squared_distances(z, clusters) / (2 * self.log_sigma.exp())  # [m, ways + n]
            return scores[:, :, None].masked_fill(owner == 0, -torch.inf).amax(1)

        return predict

    def mixture(self, support: Examples) -> tuple[Tensor, Tensor]:
        """The clusters mu `[ways + n, d]`, and their classes one-hot, `[ways + n, ways]`, zeros for an empty slot."""
        z = support.x.detach()
        labels = one_hot(support.y, self.ways, z.dtype)
        centres = torch.cat([class_means(z, support.y, self.ways), z])
        distances = squared_distances(z, centres)  # [n, ways + n]
        sigma = self.log_sigma.detach().exp()
        opened = self._opened(distances, labels, self._threshold(centres, sigma))
        owner = torch.cat([torch.eye(self.ways, dtype=z.dtype, device=z.device), labels * opened[:, None]])
        weight = (-distances / (2 * sigma)).masked_fill(labels @ owner.T == 0, -torch.inf).softmax(1)
        total = weight.sum(0)
        kept = total > MIN_WEIGHT
        return (weight / total.where(kept, 1.0)).T @ support.x, owner * kept[:, None]

    def _threshold(self, centres: Tensor, sigma: Tensor) -> Tensor:
        """lambda."""
        rho = centres[: self.ways].var(0).mean()
        return -2 * sigma * self.alpha.log() + centres.shape[1] * sigma * (rho / sigma).log1p()

    def _opened(self, distances: Tensor, labels: Tensor, threshold: Tensor) -> Tensor:
        """Which support examples open a cluster, `[n]`, 1 or 0."""
        nearest = (distances[:, : self.ways] * labels).sum(1)  # distance to the nearest cluster of the same class
        between_examples = distances[:, self.ways :]
        same_class = labels @ labels.T > 0
        opened = torch.zeros_like(nearest)
        for _ in range(-(-len(nearest) // self.ways)):  # once per example of a class; each time each class opens one
            farthest = (nearest[:, None] * labels).amax(0)  # of each class
            opens = ((nearest >= labels @ farthest) & (nearest > threshold)).to(opened.dtype)
            opened = torch.maximum(opened, opens)
            to_new_cluster = between_examples.masked_fill(~(same_class & (opens > 0)), torch.inf).amin(1)
            nearest = torch.minimum(nearest, to_new_cluster)
        return opened
