"""Pre-training baselines: a network is trained to classify the training classes; at test it gets a new head.

Chen, Liu, Kira, Wang, Huang: A Closer Look at Few-shot Classification, ICLR 2019, arXiv 1904.04232: Baseline (linear
classifier and head) and Baseline++ (both cosine). Official code: github wyharveychen/CloserLookFewShot
(methods/baselinetrain.py, methods/baselinefinetune.py, distLinear in backbone.py).

Outer problem, over mini-batches F_i of images with their training classes, without tasks:
    min_{f, C}  mean_i L(s_C(f(x)), y; F_i)
Inner problem, at test only; f is frozen, z = f(x), and the head is made from the support set D:
    centroid         c_k = mean of z over the examples of class k,  scores s(z)_k = - || z - c_k ||^2
    linear, cosine   H_0 random or zero,  H_{j+1} = H_j - alpha grad_H L(s_H(z), y; D)
(learner/pretrained.py has f and C, and defines s for a linear and for a cosine layer.)

    symbol   code                 shape / unit
    f, C     net, classifier      see learner/pretrained.py
    c        prototypes           [ways, d]
    H        params               weight w [ways, d], and bias b or length g [ways]
    tau      train_scale, scale   0-dim, the factor of cosine scores, of C and of H
    alpha    self.inner_lr        0-dim
    S        eval_steps           steps at which the headline is measured
    L        self.loss            mean over a set's examples

Differences from the paper
    - H's steps are gradient descent on the whole support set. The official code has 100 epochs of mini-batches of 4
      (200 steps for 5 examples), SGD with momentum 0.9, dampening 0.9, and weight decay 0.001.
    - H's biases are initialised to zero, in the official code at random.
    - The best weights by validation are tested; the official code tests the last.
    - The centroid head and `normalise` are additions.
    - Without random inputs (`adapt(support)`) a linear H starts from zero, a cosine H from the class means.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad

from metarun.checks import NonNegative, require, require_choice, require_int, require_positive
from metarun.learner.embedding import class_means, squared_distances
from metarun.learner.learner import Backbone, count_tasks
from metarun.learner.prediction import Predictor
from metarun.learner.pretrained import Layer, Pretrained, init_bound, layer, scores
from metarun.tasks import Batch, Examples, Task, TaskLoss

HEADS, STARTS = ("centroid", "linear", "cosine"), ("random", "zero")


class Pretrain(Pretrained):
    """A network that is pre-trained and then frozen.

    Args:
        backbone, ways, loss, base_classes, classifier, train_scale: as in `Pretrained`.
        head: `centroid`, `linear` or `cosine`.
        scale: tau of a cosine head.
        normalise: divide the embeddings that the head receives by their length (no effect on a cosine head).
        start: initial weights of a linear or cosine head: `random`, or for a linear head `zero`.
        inner_lr: alpha.
        eval_steps: S; a centroid takes no steps.

    Raises:
        ValueError: an unknown choice, a cosine head that starts at zero, a scale that is not above 0, or a count out of
            range.
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
        inner_lr: NonNegative,
        eval_steps: int,
    ) -> None:
        require_choice("algo.head", head, HEADS)
        require_choice("algo.start", start, STARTS)
        require_positive("algo", scale=scale)
        require_int("algo", eval_steps=eval_steps)
        has_direction = (head, start) != ("cosine", "zero")
        require("algo.start", start, has_direction, "random for algo.head=cosine, as zero has no direction")
        super().__init__(backbone, ways, loss, base_classes, classifier, train_scale)
        self.kind, self.normalise, self.start = head, normalise, start
        self.register_hyperparameter("scale", scale)
        self.register_hyperparameter("inner_lr", inner_lr)
        self.eval_steps = 0 if head == "centroid" else eval_steps

    def head_random_inputs(self, batch: Batch, generator: torch.Generator) -> Any:
        """H_0's weights, `[T, ways, d]`, distributed as those of a linear layer in torch."""
        if not isinstance(batch, Task) or self.kind == "centroid" or self.start == "zero":
            return ()
        shape = (count_tasks(batch), self.ways, self.width)
        return (2 * torch.rand(shape, generator=generator, device=generator.device) - 1) * init_bound(self.width)

    def heads(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        """As in `Pretrained`; where class means are used, the mean of a class without support examples is NaN."""
        support = Examples(self._normalised(support.x), support.y)
        if self.kind == "centroid":
            prototypes = class_means(support.x, support.y, self.ways)
            yield lambda z: -squared_distances(self._normalised(z), prototypes)
            return

        def support_loss(params: Layer) -> Tensor:
            return self.loss(scores(params, support.x, self.scale), support.y)

        weight = random_inputs if isinstance(random_inputs, Tensor) else self._deterministic_start(support)
        params = layer(self.kind, weight)
        yield self._predictor(params)
        for _ in range(steps):
            gradient = grad(support_loss)(params)
            params = {name: value - self.inner_lr * gradient[name] for name, value in params.items()}
            yield self._predictor(params)

    def _deterministic_start(self, support: Examples) -> Tensor:
        if self.kind == "cosine":
            return class_means(support.x, support.y, self.ways)
        return support.x.new_zeros(self.ways, self.width)

    def _normalised(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=1) if self.normalise else z

    def _predictor(self, params: Layer) -> Predictor:
        return lambda z: scores(params, self._normalised(z), self.scale)
