"""VERSA: a network looks at a class's examples and says how its weights are distributed; predictions are averaged.

Gordon, Bronskill, Bauer, Nowozin, Turner: Meta-Learning Probabilistic Inference for Prediction, ICLR 2019, arXiv
1805.09921. Official code: github Gordonjo/versa (src/inference.py, run_classifier.py).

Inner problem, no optimisation: for each class c with the support examples D_c,
    h_c = mean of f(x) over D_c,  q(w_c | D) = N(m_w(h_c), diag exp v_w(h_c)),  q(b_c | D) = N(m_b(h_c), exp v_b(h_c))
  so the class scores of a query are independent normals, and those are what is drawn (local reparametrisation):
    s_c = f(x)^T m_w + m_b + eps_c sqrt( (f(x)^2)^T exp v_w + exp v_b ),    eps_c normal, L times for each query
Outer problem, over tasks with query sets D':
    min  mean_i mean_{(x, y) in D'_i}  - log 1/L sum_l p(y | s^l),    p the softmax

Weights of a class depend on its own examples only, so any number of classes and of examples will do.

    symbol          code                         shape / unit
    f               self.net                     the backbone with a last layer of `dimension` units, [n, d]
    h               pooled                       [ways, d]
    m_w, v_w        self.mean_w, log_variance_w  three layers with ELU: [ways, d] -> [ways, d]
    m_b, v_b        self.mean_b, log_variance_b  likewise, [ways, d] -> [ways, 1]
    eps             noise                        [T, L, queries, ways], normal
    L               self.samples

Differences from the paper
    - v = low + (high - low) sigmoid of the network's output, within `log_variance`, and starts about its middle; in the
      code it is free, and starts at about 0.
    - A linear layer makes f's d features of the backbone's; the paper's backbone has 256 filters and ends in 256.
    - No dropout.
    - The code's accuracy averages exp of the drawn scores themselves; here probabilities are averaged, as in the loss.
    - Without noise (`adapt(support)`) class scores are the means of the s_c: one model, none drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any, cast

import torch
from torch import Tensor, nn

from metarun.learner.embedding import Embedding, class_means, with_output_width
from metarun.learner.learner import Backbone, count_tasks, require_counts
from metarun.learner.prediction import Prediction, Predictor, Samples
from metarun.tasks import Batch, Examples, Task, TaskLoss


class VERSA(Embedding):
    """Class weights are drawn from distributions that a network infers from each class's mean embedding.

    Args:
        backbone, ways, loss: as in `Embedding`; the loss is used where nothing is drawn.
        dimension: d.
        samples: L, in training and at test.
        log_variance: lowest and highest v.

    Raises:
        ValueError: `dimension` or `samples` no whole number of at least 1, or a range that is not (lowest, highest).
    """

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        loss: TaskLoss,
        dimension: int,
        samples: int,
        log_variance: Sequence[float],
    ) -> None:
        require_counts(least=1, dimension=dimension, samples=samples)
        if len(log_variance) != 2 or not log_variance[0] < log_variance[1]:
            raise ValueError(f"log_variance must be two numbers, the lower first; got {list(log_variance)}")

        super().__init__(with_output_width(dimension, backbone), ways, loss)
        self.mean_w, self.log_variance_w = _inference(dimension, dimension), _inference(dimension, dimension)
        self.mean_b, self.log_variance_b = _inference(dimension, 1), _inference(dimension, 1)
        self.samples = samples
        self.lowest, self.highest = log_variance

    def head_random_inputs(self, batch: Batch, generator: torch.Generator) -> Any:
        """eps, `[T, L, queries, ways]`."""
        shape = (count_tasks(batch), self.samples, cast(Task, batch).query.x.shape[1], self.ways)
        return torch.randn(shape, device=generator.device, generator=generator)

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        """Draws `Samples` of as many queries as `noise` has, in its order; mean scores where noise is ()."""
        pooled = class_means(support.x, support.y, self.ways)
        mean_w, mean_b = self.mean_w(pooled), self.mean_b(pooled)
        variance_w, variance_b = (
            self._bounded(part(pooled)).exp() for part in (self.log_variance_w, self.log_variance_b)
        )

        def predict(z: Tensor) -> Prediction:
            mean = z @ mean_w.T + mean_b.T  # [m, ways]
            if not isinstance(random_inputs, Tensor):
                return mean
            if random_inputs.shape[1] != len(z):
                raise ValueError(f"noise was drawn for {random_inputs.shape[1]} queries; got {len(z)}")
            deviation = (z.square() @ variance_w.T + variance_b.T).sqrt()
            return Samples(mean + random_inputs * deviation)

        return predict

    def query_loss(self, prediction: Prediction, y: Tensor) -> Tensor:
        """- log of the mean probability of the right class over samples, mean over queries."""
        if not isinstance(prediction, Samples):
            return self.loss(prediction, y)
        of_right = prediction.values.log_softmax(-1).gather(-1, y.expand(self.samples, -1).unsqueeze(-1)).squeeze(-1)
        return -(of_right.logsumexp(0) - log(self.samples)).mean()

    def _bounded(self, raw: Tensor) -> Tensor:
        return self.lowest + (self.highest - self.lowest) * raw.sigmoid()


def _inference(d: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(d, d), nn.ELU(), nn.Linear(d, d), nn.ELU(), nn.Linear(d, outputs))
