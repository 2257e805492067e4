"""IMP, infinite mixture prototypes: a class is as many clusters as its examples ask for.

Allen, Shelhamer, Shin, Tenenbaum: Infinite Mixture Prototypes for Few-Shot Learning, ICML 2019, arXiv 1902.04552.
Official code: github k-r-allen/imp (fewshot/models/imp.py).

Inner problem, one pass (DP-means with soft assignments), z = f(x), d its dimension, sigma the clusters' variance:
    m_k = mean of z over the support examples of class k, the first cluster of class k
    lambda = - 2 sigma log(alpha) + d sigma log(1 + rho / sigma),   rho the variance of the m_k, mean over dimensions
    for every support example i:  if || z_i - m ||^2 > lambda for all clusters m of its class, z_i opens a cluster
    q_ic = softmax_c( - || z_i - m_c ||^2 / (2 sigma) )  over the clusters of i's class
    mu_c = sum_i q_ic z_i / sum_i q_ic                   clusters of no weight, sum_i q_ic <= 0.001, are dropped
Outer problem, over tasks with query sets D'; the clusters of class k are c in k:
    min_{f, sigma}  mean_i mean_{(x, y) in D'_i}  - log softmax_k( max_{c in k}  - || f(x) - mu_c ||^2 / (2 sigma) )_y

lambda, the choice of clusters and q carry no gradient: f has it by the z in mu and by queries, sigma by the last line.
With one shot, mu_k = z_k: prototypical networks with distances over 2 sigma.

    symbol      code               shape / unit
    f           self.net           the backbone without a last layer, to embeddings [n, d]
    alpha       self.alpha         0-dim, concentration
    sigma       self.log_sigma     0-dim, its logarithm, learned; the same for all clusters
    m, mu       centres, clusters  [ways + n, d]: the classes' means, and a slot for each support example
    opened      owner > 0          [ways + n, ways]: whose cluster a slot is; rows of zeros are not in use
    lambda      threshold          0-dim
    q           weight             [n, ways + n]

Differences from the paper
    - Examples open clusters in the order farthest from their class's clusters first (ties at once), whatever the order
      of the support set; in the official code in the order they come.
    - No unlabelled examples, hence no sigma of their own.
    - `run.meta_batch_size` tasks an outer step. Optimizer and schedule are the run's; the official code has RMSprop.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metarun.learner.embedding import Embedding, class_means, one_hot, squared_distances
from metarun.learner.learner import Backbone, require_positive
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss

LEAST_WEIGHT = 1e-3  # of a cluster that is kept; the official code's


class IMP(Embedding):
    """Class scores are minus the squared distances to the class's nearest cluster, over twice the variance.

    Args:
        backbone, ways, loss: as in `Embedding`.
        alpha: the smaller, the farther from its class's clusters an example must be to open one.
        sigma: the clusters' variance at the start.

    Every class must have equally many support examples (of more than n / ways of one class, not all could open
    clusters), and there must be two classes: rho is a variance between them.

    Raises:
        ValueError: alpha outside (0, 1], a sigma that is not above zero.
    """

    init_only_args: ClassVar[tuple[str, ...]] = ("sigma",)
    alpha: Tensor

    def __init__(self, backbone: Backbone, ways: int, loss: TaskLoss, alpha: float, sigma: float) -> None:
        require_positive(alpha=alpha, sigma=sigma)
        if alpha > 1:
            raise ValueError(f"alpha must be at most 1, or examples at no distance open clusters; got {alpha}")
        super().__init__(backbone, ways, loss)
        self.register_hyperparameter("alpha", alpha)
        self.log_sigma = nn.Parameter(torch.tensor(math.log(sigma)))

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        del random_inputs  # draws nothing
        clusters, owner = self.mixture(support)

        def predict(z: Tensor) -> Tensor:
            scores = -squared_distances(z, clusters) / (2 * self.log_sigma.exp())  # [m, ways + n]
            return scores[:, :, None].masked_fill(owner == 0, -torch.inf).amax(1)

        return predict

    def mixture(self, support: Examples) -> tuple[Tensor, Tensor]:
        """The clusters mu `[ways + n, d]`, and whose they are, `[ways + n, ways]`: 1 or 0, all 0 of an empty slot."""
        z = support.x.detach()
        member, own = one_hot(support.y, self.ways, z.dtype), torch.eye(self.ways, dtype=z.dtype, device=z.device)
        centres = torch.cat([class_means(z, support.y, self.ways), z])
        distances = squared_distances(z, centres)  # [n, ways + n]
        sigma = self.log_sigma.detach().exp()
        owner = torch.cat([own, member * self._opened(distances, member, self._threshold(centres, sigma))[:, None]])
        weight = (-distances / (2 * sigma)).masked_fill(member @ owner.T == 0, -torch.inf).softmax(1)
        total = weight.sum(0)
        kept = total > LEAST_WEIGHT
        return (weight / total.where(kept, 1.0)).T @ support.x, owner * kept[:, None]

    def _threshold(self, centres: Tensor, sigma: Tensor) -> Tensor:
        rho = centres[: self.ways].var(0).mean()
        return -2 * sigma * self.alpha.log() + centres.shape[1] * sigma * (rho / sigma).log1p()

    def _opened(self, distances: Tensor, member: Tensor, threshold: Tensor) -> Tensor:
        """Which support examples open a cluster, `[n]`, 1 or 0."""
        nearest = (distances[:, : self.ways] * member).sum(1)  # to a cluster of its class
        among = distances[:, self.ways :]
        same = member @ member.T > 0
        opened = torch.zeros_like(nearest)
        for _ in range(-(-len(nearest) // self.ways)):  # as often as a class has examples; one of each class opens
            farthest = (nearest[:, None] * member).amax(0)  # of each class
            opens = ((nearest >= member @ farthest) & (nearest > threshold)).to(opened.dtype)
            opened = torch.maximum(opened, opens)
            to_new = among.masked_fill(~(same & (opens > 0)), torch.inf).amin(1)
            nearest = torch.minimum(nearest, to_new)
        return opened
