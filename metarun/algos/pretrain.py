"""Pre-training baselines: a network is taught to tell the training classes apart; at test it gets a new head.

Chen, Liu, Kira, Wang, Huang: A Closer Look at Few-shot Classification, ICLR 2019, arXiv 1904.04232: Baseline (linear
classifier and head) and Baseline++ (both cosine). Official code: github wyharveychen/CloserLookFewShot
(methods/baselinetrain.py, methods/baselinefinetune.py, distLinear in backbone.py).

Outer problem, over mini-batches F_i of images with their training classes, no tasks:
    min_{f, C}  mean_i L(s_C(f(x)), y; F_i)
Inner problem, at test only; f stays as it is, z = f(x), and the head comes from the support set D:
    centroid         c_k = mean of z over the examples of class k,  scores s(z)_k = - || z - c_k ||^2
    linear, cosine   H_0 drawn, or zero,  H_{j+1} = H_j - alpha grad_H L(s_H(z), y; D)
(s of a linear and of a cosine layer is spelt out in pretrained.py, which f and C come from too.)

    symbol   code                 shape / unit
    f, C     net, classifier      see pretrained.py
    H        params               weight w [ways, d], and bias b or length g [ways]
    tau      train_scale, scale   0-dim, the factor of cosine scores, of C and of H
    alpha    self.inner_lr        0-dim
    S        eval_steps           steps at which the headline is measured
    L        self.loss            mean over a set's examples

Differences from the paper
    - H's steps are gradient descent on the whole support set. The official code has 100 epochs of mini-batches of 4
      (200 steps for 5 examples), SGD of momentum 0.9, dampened by 0.9, and weight decay 0.001.
    - H's biases start at zero; the official code draws them.
    - The best weights by validation are tested; the official code takes the last.
    - The centroid head and `normalise` are not theirs.
    - Without noise (`adapt(support)`) H starts from zero where it is linear, from class means where it is cosine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad

from metarun.learner.embedding import class_means, squared_distances
from metarun.learner.learner import Backbone, count_tasks, require_counts, require_positive
from metarun.learner.prediction import Predictor
from metarun.learner.pretrained import Layer, Pretrained, init_bound, layer, require_one_of, scores
from metarun.tasks import Batch, Examples, Task, TaskLoss

HEADS, STARTS = ("centroid", "linear", "cosine"), ("random", "zero")


class Pretrain(Pretrained):
    """A network that is pre-trained and then stays as it is.

    Args:
        backbone, ways, loss, base_classes, classifier, train_scale: as in `Pretrained`.
        head: `centroid`, `linear` or `cosine`.
        scale: tau of a cosine head.
        normalise: the head is given embeddings divided by their length (a cosine head sees no difference).
        start: of a linear or cosine head: `random`, or of a linear one `zero`.
        inner_lr: alpha.
        eval_steps: S; a centroid takes no steps.

    Raises:
        ValueError: an unknown word, a cosine head that starts at zero, a scale that is not above zero, bad counts.
    """

    inner_lr: Tensor
    scale: Tensor

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        loss: TaskLoss,
        base_classes: int,
        classifier: str,
        head: str,
        train_scale: float,
        scale: float,
        normalise: bool,
        start: str,
        inner_lr: float,
        eval_steps: int,
    ) -> None:
        require_one_of(HEADS, head=head)
        require_one_of(STARTS, start=start)
        require_positive(scale=scale)
        require_counts(eval_steps=eval_steps)
        if (head, start) == ("cosine", "zero"):
            raise ValueError("start must be random for head=cosine: zero has no direction; got 'zero'")
        super().__init__(backbone, ways, loss, base_classes, classifier, train_scale)
        self.kind, self.normalise, self.start = head, normalise, start
        self.register_hyperparameter("scale", scale)
        self.register_hyperparameter("inner_lr", inner_lr)
        self.eval_steps = 0 if head == "centroid" else eval_steps

    def head_random_inputs(self, batch: Batch, generator: torch.Generator) -> Any:
        """H_0's weights, `[T, ways, d]`, drawn as torch draws those of a linear layer."""
        if not isinstance(batch, Task) or self.kind == "centroid" or self.start == "zero":
            return ()
        shape = (count_tasks(batch), self.ways, self.width)
        return (2 * torch.rand(shape, generator=generator, device=generator.device) - 1) * init_bound(self.width)

    def heads(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        """Every class must have a support example where means are taken: the mean of one that has none is NaN."""
        support = Examples(self._ready(support.x), support.y)
        if self.kind == "centroid":
            prototypes = class_means(support.x, support.y, self.ways)
            yield lambda z: -squared_distances(self._ready(z), prototypes)
            return

        def support_loss(params: Layer) -> Tensor:
            return self.loss(scores(params, support.x, self.scale), support.y)

        params = layer(self.kind, random_inputs if isinstance(random_inputs, Tensor) else self._start(support))
        yield self._predictor(params)
        for _ in range(steps):
            gradient = grad(support_loss)(params)
            params = {name: value - self.inner_lr * gradient[name] for name, value in params.items()}
            yield self._predictor(params)

    def _start(self, support: Examples) -> Tensor:
        if self.kind == "cosine":
            return class_means(support.x, support.y, self.ways)
        return support.x.new_zeros(self.ways, self.width)

    def _ready(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=1) if self.normalise else z

    def _predictor(self, params: Layer) -> Predictor:
        return lambda z: scores(params, self._ready(z), self.scale)
