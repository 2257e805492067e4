"""Siamese networks: one network looks at both images, and weighted differences of its features say if they match.

Koch, Zemel, Salakhutdinov: Siamese Neural Networks for One-shot Image Recognition, ICML Deep Learning Workshop 2015. No
official code is known.

Of a pair, the same class or not:
    s(x, x') = sum_j a_j | f_j(x) - f_j(x') | + b,    p(same | x, x') = sigma(s)       (section 3.1)
Outer problem, over pairs, half of them of one class (y = 1), half of two (y = 0):
    min_{f, a, b}  mean  - y log p - (1 - y) log(1 - p)                               (section 3.2)
Inner problem, solved at once: a query takes the class of the support example that most likely matches it,
    score_k(x) = max of s(x, x_i) over the support examples x_i of class k            (section 4.3)

    symbol   code          shape / unit
    f        self.net      the backbone without its last layer, to embeddings [n, d]
    a, b     self.match    the backbone's last layer, of one unit: [1, d] and [1]
    s        verify        [b], a logit

Differences from the paper
    - f is the run's backbone; the paper's has large filters on 105x105 images and ends in 4096 sigmoid units.
    - Pairs are drawn anew at every step, without affine distortions; the paper has up to 150 000 pairs, each
      distorted eight times.
    - No L2 penalty; one optimizer and learning rate (the run's), where the paper has rate and momentum by layer.
    - The paper has one support example of a class; with more, the nearest counts.
    - Task log-likelihoods (`nll`) come from a softmax over s, which was trained for sigmoids: read the accuracy.
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
    """Learned from pairs; compares pairs, or a query with each support example.

    Args:
        backbone: makes network and last layer, `backbone(outputs=1)`; the layer is its `head`.
        ways: classes of a task, until loop or evaluation say otherwise.
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
        z = self.net(x.flatten(0, 1))  # all images in one pass, so that batch norm sees them together
        first, second = z.view(len(x), 2, -1).unbind(1)
        return self.match((first - second).abs()).squeeze(1)

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        """Every class must have a support example: the score of one that has none is minus infinity."""
        del random_inputs
        member = one_hot(support.y, self.ways, torch.bool)

        def predict(z: Tensor) -> Tensor:
            s = self.match_all(z, support.x)
            return torch.where(member, s.unsqueeze(-1), -torch.inf).amax(1)

        return predict

    def match_all(self, z: Tensor, support: Tensor) -> Tensor:
        """s of every embedding `[m, d]` with every other `[n, d]`: `[m, n]`."""
        # a | u - v | = sign(a) | a u - a v |: two sums of distances, where differences take m n d numbers.
        a = self.match.weight[0]
        alike, unlike = (torch.cdist(z * w, support * w, p=1.0) for w in (a.relu(), (-a).relu()))
        return alike - unlike + self.match.bias
