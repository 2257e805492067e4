"""MetaNet: slow weights are augmented by fast weights, generated for each task from gradients on its examples.

Munkhdalai, Yu: Meta Networks, ICML 2017, arXiv 1703.00837. Official code: bitbucket tsendeemts/metanet (MetaNetFull.py,
MetaNetPartial.py and MetaNetPartialU.py, utilsf.py, the training scripts).

Inner problem, without optimisation (algorithm 1), on the support set D = {(x_i, y_i)}:
    task    Q* = mean_i d(pre(grad_Q CE(V relu(Q f_u(x_i)), y_i)))           fast weights of the representation u
            r(x) = Q f_u(x) + Q* f_u(x)                                      keys, r_i = r(x_i)
    memory  (W*_1, W*_2)_i = m(pre(grad_W CE(W_2 relu(W_1 f_b(x_i)), y_i)))  fast weights of the base learner b
    query   a = softmax_i cos(r(x), r_i),    W* = sum_i a_i (W*_1, W*_2)_i
            s = relu(W_1 f_b(x)) + relu(W*_1 f_b(x)),    scores = W_2 s + W*_2 s      layer augmentation
d and m map each coordinate of a gradient separately, from its logarithm and sign (pre: numerics/gradient_input.py).
Gradients are taken at the slow weights, example by example, and are treated as constants.

Outer problem, over tasks with query sets D':
    min  mean_i CE(scores(x), y) over (x, y) in D'_i    over f_u, f_b, the slow weights Q, W, and d, m

    symbol        code                          shape / unit
    f_u, f_b      self.net.u, self.net.b        two backbones without a last layer: [n, features]
    Q             self.keys                     [units, features]
    V             self.labels                   [ways, units], sampled once and not trained
    W_1, W_2      self.hidden, self.classes     [units, features], [ways, units]
    d, m          self.of_task, .of_example     2 numbers to one, with two hidden layers of `generator` units
    Q*            fast                          [units, features]
    (W*)_i        memory                        [n, units, features] and [n, ways, units]
    r_i           keys                          [n, units]
    a             self.attention                [queries, n]

Differences from the paper
    - Convolutions have no fast weights. In the official code all layers have them (Omniglot), or the last two blocks
      and the linear layers (mini-ImageNet), from a separate generator.
    - d is an LSTM over the examples (in the official code, over up to ten subsets of the support set), and the paper
      states that their order does not matter. Here d is a network like m whose outputs are averaged, so that the order
      does not matter.
    - V has no fast weights that are used and receives no gradient, as in the official code, where it is a parameter.
    - There is one representation loss, cross-entropy, as in the official code; the paper also has a contrastive loss
      for one shot.
    - The loss is a mean over queries; in the official code it is their sum, and gradients are clipped to norm 10.
    - Batch norm is the backbone's. The official code has none (Omniglot), or has it in the first three of five blocks.
    - Training tasks have as many ways as test tasks, as W_2 and V depend on it. For mini-ImageNet the official code
      trains on 10 ways and tests with other, untrained W_2 and V.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun.checks import require_int, require_positive
from metarun.learner.embedding import Embedding, feature_dim, one_hot
from metarun.learner.learner import Backbone
from metarun.learner.prediction import Predictor
from metarun.numerics.gradient_input import preprocess
from metarun.tasks import Examples, TaskLoss


class Pair(nn.Module):
    """The concatenated features of two backbones, `[n, 2 d]`."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.u, self.b = backbone(outputs=None), backbone(outputs=None)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.u(x), self.b(x)], 1)


class Generator(nn.Sequential):
    """From gradients to fast weights of the same shape, coordinate by coordinate.

    Args:
        units: width of its two hidden layers.
        p: gradients below exp(-p) are treated as small.
    """

    def __init__(self, units: int, p: float) -> None:
        super().__init__(nn.Linear(2, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, 1))
        self.p = p

    def forward(self, gradient: Tensor) -> Tensor:
        return super().forward(preprocess(gradient, self.p)).squeeze(-1)


class MetaNet(Embedding):
    """Classifies by slow weights and by fast weights, which a query retrieves from those of the support examples.

    The weights depend on the number of ways.

    Args:
        backbone, loss: as in `Embedding`; the loss is that of the queries.
        outputs: ways.
        units: of the hidden layer of the representation and of the base learner.
        generator: units of the hidden layers of the weight generators.
        p: gradients below exp(-p) are treated as small.

    Raises:
        ValueError: a count that is not an integer of at least 1, or p that is not above 0.
    """

    labels: Tensor

    def __init__(self, backbone: Backbone, outputs: int, loss: TaskLoss, units: int, generator: int, p: float) -> None:
        require_int("algo", minimum=1, units=units, generator=generator)
        require_positive("algo", p=p)
        super().__init__(lambda **_: Pair(backbone), outputs, loss)
        d = feature_dim(backbone)
        self.keys, self.hidden = nn.Linear(d, units, bias=False), nn.Linear(d, units, bias=False)
        self.classes = nn.Linear(units, outputs, bias=False)
        self.register_buffer("labels", (2 * torch.rand(outputs, units) - 1) / sqrt(units))  # like a linear layer's init
        self.of_task, self.of_example = Generator(generator, p), Generator(generator, p)

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        del random_inputs  # draws nothing
        u, b = support.x.chunk(2, 1)
        y = one_hot(support.y, len(self.labels), b.dtype)
        fast = self.of_task(gradients(u, y, self.keys.weight, self.labels)[0]).mean(0)
        memory = [self.of_example(g) for g in gradients(b, y, self.hidden.weight, self.classes.weight)]
        keys = self.keys(u) + F.linear(u, fast)

        def predict(z: Tensor) -> Tensor:
            u, b = z.chunk(2, 1)
            attention = self.attention(self.keys(u) + F.linear(u, fast), keys)
            s = self.hidden(b).relu() + _attended(attention, memory[0], b).relu()
            return self.classes(s) + _attended(attention, memory[1], s)

        return predict

    def attention(self, query_keys: Tensor, keys: Tensor) -> Tensor:
        """a `[m, n]`, of m queries with keys `[m, units]` to n support examples with keys `[n, units]`."""
        return (F.normalize(query_keys, dim=1) @ F.normalize(keys, dim=1).T).softmax(1)


def gradients(z: Tensor, y: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of each example's cross-entropy of `last` relu(`first` z); constants to autograd.

    Args:
        z: `[n, d]`.
        y: one-hot labels `[n, ways]`.
        first, last: weights `[units, d]` and `[ways, units]`.

    Returns:
        The gradients by `first` `[n, units, d]` and by `last` `[n, ways, units]`.
    """
    z, first, last = z.detach(), first.detach(), last.detach()
    hidden = F.linear(z, first)
    error = F.linear(hidden.relu(), last).softmax(1) - y
    hidden_error = (error @ last) * (hidden > 0)
    return hidden_error.unsqueeze(2) * z.unsqueeze(1), error.unsqueeze(2) * hidden.relu().unsqueeze(1)


def _attended(attention: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """(sum_i a_i W_i) x for each row of x `[m, d]`, W `[n, k, d]` and a `[m, n]`, without forming the sum."""
    by_example = F.linear(x, weights.flatten(0, 1)).unflatten(1, weights.shape[:2])  # [m, n, k]
    return (attention.unsqueeze(2) * by_example).sum(1)
