"""Siamese networks: one network embeds both images, and the weighted differences of their features score a match.

Koch, Zemel, Salakhutdinov: Siamese Neural Networks for One-shot Image Recognition, ICML Deep Learning Workshop 2015. No
official code is known.

Whether the images of a pair are of the same class:
    s(x, x') = sum_j a_j | f_j(x) - f_j(x') | + b,    p(same | x, x') = sigma(s)       (section 3.1)
Outer problem, over pairs, half of them of the same class (y = 1), half of two classes (y = 0):
    min_{f, a, b}  mean  - y log p - (1 - y) log(1 - p)                               (section 3.2)
Inner problem, solved at once: a query is assigned the class of the support example with the best match,
    score_k(x) = max of s(x, x_i) over the support examples x_i of class k            (section 4.3)

    symbol   code          shape / unit
    f        self.net      the backbone without its last layer, to embeddings [n, d]
    a, b     self.match    the backbone's last layer, with one unit: [1, d] and [1]
    s        score_pairs   [b], a logit

Differences from the paper
    - f is the run's backbone; the paper's has large filters on 105x105 images and ends in 4096 sigmoid units.
    - Pairs are sampled anew at every step, without affine distortions; the paper has up to 150 000 pairs, each
      distorted eight times.
    - There is no L2 penalty, and one optimizer and learning rate (the run's); the paper has a learning rate and a
      momentum per layer.
    - The paper has one support example per class; with several, the best match counts.
    - `nll` of tasks is that of a softmax over s, which was trained for a sigmoid; accuracy is the meaningful metric.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from metarun.learner.embedding import Embedding, one_hot, with_output_width
from metarun.learner.learner import Backbone, Stage
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, Kind, Pairs, TaskLoss, pair_loss


class Siamese(Embedding):
    """Learns from pairs; compares the images of a pair, or a query with each support example.

    Args:
        backbone: makes the network, `backbone(outputs=1)`, whose last layer is its `head`.
        ways: classes of a task; loop and evaluation may change it.
        loss: the task loss, for reporting.
    """

    stages: tuple[Stage, ...] = (Stage("pairs"),)
    task_types: ClassVar[tuple[Kind, ...]] = ("classification", "verification")
    supports_dropblock: ClassVar[bool] = False

    def __init__(self, backbone: Backbone, ways: int, loss: TaskLoss) -> None:
        super().__init__(with_output_width(1, backbone), ways, loss)
        self.match = cast(nn.Linear, self.net.head)
        self.net.head = nn.Identity()

    def meta_loss(self, task: Pairs, random_inputs: Any = ()) -> Tensor:  # type: ignore[override]
        return pair_loss(self.score_pairs(task.x, random_inputs), task.y)

    def score_pairs(self, x: Tensor, random_inputs: Any = ()) -> Tensor:
        del random_inputs  # draws nothing
        z = self.net(x.flatten(0, 1))  # one pass for all images, so that batch norm sees them together
        first, second = z.view(len(x), 2, -1).unbind(1)
        return self.match((first - second).abs()).squeeze(1)

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        """As in `Embedding`; every class must have a support example, a class without one scores minus infinity."""
        del random_inputs  # draws nothing
        labels = one_hot(support.y, self.ways, torch.bool)

        def predict(z: Tensor) -> Tensor:
            s = self.match_all(z, support.x)
            return torch.where(labels, s.unsqueeze(-1), -torch.inf).amax(1)

        return predict

    def match_all(self, z: Tensor, support: Tensor) -> Tensor:
        """s `[m, n]` of every embedding z `[m, d]` with every support embedding `[n, d]`."""
        # a | u - v | = sign(a) | a u - a v |: two matrices of distances, instead of m n d differences.
        a = self.match.weight[0]
        positive, negative = (torch.cdist(z * w, support * w, p=1.0) for w in (a.relu(), (-a).relu()))
        return positive - negative + self.match.bias
