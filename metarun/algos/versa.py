"""VERSA: a network infers the distribution of a class's weights from its examples; predictions are averaged.

Gordon, Bronskill, Bauer, Nowozin, Turner: Meta-Learning Probabilistic Inference for Prediction, ICLR 2019, arXiv
1805.09921. Official code: github Gordonjo/versa (src/inference.py, run_classifier.py).

Inner problem, without optimisation: for each class c with the support examples D_c,
    h_c = mean of f(x) over D_c,  q(w_c | D) = N(m_w(h_c), diag exp v_w(h_c)),  q(b_c | D) = N(m_b(h_c), exp v_b(h_c))
  so the class scores of a query are independent normals, which are sampled directly (local reparametrisation):
    s_c = f(x)^T m_w + m_b + eps_c sqrt( (f(x)^2)^T exp v_w + exp v_b ),    eps_c normal, L times for each query
Outer problem, over tasks with query sets D':
    min  mean_i mean_{(x, y) in D'_i}  - log 1/L sum_l p(y | s^l),    p the softmax

The weights of a class depend on its own examples only, so tasks may have any number of classes and of examples.

    symbol          code                         shape / unit
    f               self.net                     the backbone with a last layer of `dimension` units, [n, d]
    h               means                        [ways, d]
    m_w, v_w        self.mean_w, log_variance_w  three layers with ELU: [ways, d] -> [ways, d]
    m_b, v_b        self.mean_b, log_variance_b  likewise, [ways, d] -> [ways, 1]
    eps             random_inputs                [T, L, queries, ways], normal
    L               self.samples

Differences from the paper
    - v = low + (high - low) sigmoid of the network's output, within `log_variance`, initially close to its middle; in
      the official code it is unconstrained, initially close to 0.
    - A linear layer maps the backbone's features to the d features of f; the paper's backbone has 256 filters and ends
      in 256.
    - There is no dropout.
    - The official accuracy averages exp of the sampled scores; here probabilities are averaged, as in the loss.
    - Without random inputs (`adapt(support)`) class scores are the means of the s_c, of a single model.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any, cast

import torch
from torch import Tensor, nn

from metarun.checks import require, require_int
from metarun.learner.embedding import Embedding, class_means, with_output_width
from metarun.learner.learner import Backbone, count_tasks
from metarun.learner.prediction import Prediction, Predictor, Samples
from metarun.tasks import Batch, Examples, Task, TaskLoss


class VERSA(Embedding):
    """Class weights are sampled from distributions that a network infers from each class's mean embedding.

    Args:
        backbone, ways, loss: as in `Embedding`; the loss is used for predictions without random inputs.
        dimension: d.
        samples: L, in training and at test.
        log_variance: (lowest, highest), the range of v.

    Raises:
        ValueError: `dimension` or `samples` is not an integer of at least 1, or the range is not (lowest, highest).
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
        require_int("algo", minimum=1, dimension=dimension, samples=samples)
        is_range = len(log_variance) == 2 and log_variance[0] < log_variance[1]
        what = "a range [lowest, highest] with lowest < highest"
        require("algo.log_variance", list(log_variance), is_range, what)

        super().__init__(with_output_width(dimension, backbone), ways, loss)
        self.mean_w = _inference_network(dimension, dimension)
        self.log_variance_w = _inference_network(dimension, dimension)
        self.mean_b = _inference_network(dimension, 1)
        self.log_variance_b = _inference_network(dimension, 1)
        self.samples = samples
        self.lowest, self.highest = log_variance

    def head_random_inputs(self, batch: Batch, generator: torch.Generator) -> Any:
        """eps, `[T, L, queries, ways]`."""
        shape = (count_tasks(batch), self.samples, cast(Task, batch).query.x.shape[1], self.ways)
        return torch.randn(shape, device=generator.device, generator=generator)

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        """Predicts `Samples` for as many queries as the random inputs hold; mean scores without random inputs."""
        means = class_means(support.x, support.y, self.ways)
        mean_w, mean_b = self.mean_w(means), self.mean_b(means)
        variance_w = self._bounded(self.log_variance_w(means)).exp()
        variance_b = self._bounded(self.log_variance_b(means)).exp()

        def predict(z: Tensor) -> Prediction:
            mean = z @ mean_w.T + mean_b.T  # [m, ways]
            if not isinstance(random_inputs, Tensor):
                return mean
            if (queries := random_inputs.shape[1]) != len(z):
                raise ValueError(f"random_inputs must be those of {len(z)} queries; got those of {queries}")
            deviation = (z.square() @ variance_w.T + variance_b.T).sqrt()
            return Samples(mean + random_inputs * deviation)

        return predict

    def query_loss(self, prediction: Prediction, y: Tensor) -> Tensor:
        """- log of the true class's probability averaged over samples, mean over queries."""
        if not isinstance(prediction, Samples):
            return self.loss(prediction, y)
        log_p = prediction.values.log_softmax(-1).gather(-1, y.expand(self.samples, -1).unsqueeze(-1)).squeeze(-1)
        return -(log_p.logsumexp(0) - log(self.samples)).mean()

    def _bounded(self, raw: Tensor) -> Tensor:
        return self.lowest + (self.highest - self.lowest) * raw.sigmoid()


def _inference_network(d: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(d, d), nn.ELU(), nn.Linear(d, d), nn.ELU(), nn.Linear(d, outputs))
