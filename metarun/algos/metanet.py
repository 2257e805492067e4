"""MetaNet: slow weights are joined by fast ones, generated for each task from the gradients on its examples.

Munkhdalai, Yu: Meta Networks, ICML 2017, arXiv 1703.00837. Official code: bitbucket tsendeemts/metanet (MetaNetFull.py,
MetaNetPartial.py and MetaNetPartialU.py, utilsf.py, the training scripts).

Inner problem, no optimisation (algorithm 1), from the support set D = {(x_i, y_i)}; relu and softmax as usual:
    task    Q* = mean_i d(pre(grad_Q CE(V relu(Q f_u(x_i)), y_i)))           fast weights of the representation u
            r(x) = Q f_u(x) + Q* f_u(x)                                      keys, r_i = r(x_i)
    memory  (W*_1, W*_2)_i = m(pre(grad_W CE(W_2 relu(W_1 f_b(x_i)), y_i)))  fast weights of the base learner b
    query   a = softmax_i cos(r(x), r_i),    W* = sum_i a_i (W*_1, W*_2)_i
            s = relu(W_1 f_b(x)) + relu(W*_1 f_b(x)),    scores = W_2 s + W*_2 s      layer augmentation
d and m map each coordinate of a gradient alone, from its logarithm and sign (pre: gradient_input.py). Gradients are
taken at the slow weights, example by example, and count as constants.

Outer problem, over tasks with query sets D':
    min  mean_i CE(scores(x), y) over (x, y) in D'_i    over f_u, f_b, the slow weights Q, W, and d, m

    symbol        code                          shape / unit
    f_u, f_b      self.net.u, self.net.b        two of the backbone, without a last layer: [n, features]
    Q             self.keys                     [units, features]
    V             self.labels                   [ways, units], drawn once and not trained
    W_1, W_2      self.hidden, self.classes     [units, features], [ways, units]
    d, m          self.of_task, .of_example     2 numbers to one, with two hidden layers of `generator` units
    Q*, W*        fast, memory                  [units, features];  [n, units, features] and [n, ways, units]
    a             self.attention                [queries, n]

Differences from the paper
    - Convolutions are slow only. Officially fast are all layers (Omniglot), or the last two blocks and the linear ones
      (mini-ImageNet); a generator of their own makes them.
    - d is an LSTM over the examples (in the code: over up to ten parts of the support set), and the paper says that
      their order does not matter. Here it is a network like m, whose outputs are averaged, and it does not.
    - V has no fast weights that are used, and no gradient reaches it, officially either; there it is a parameter.
    - One representation loss, cross-entropy, as in the code; the paper has a contrastive one for one shot besides.
    - The loss is a mean over queries; in the code it is their sum, and gradients are clipped to norm 10.
    - Batch norm is the backbone's. Officially there is none (Omniglot), or in the first three of five blocks.
    - Training has the test's number of ways, which W_2 and V are made for. For mini-ImageNet the code trains on 10, and
      tests with other W_2 and V, as they were drawn.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun.learner.embedding import Embedding, feature_dim, one_hot
from metarun.learner.learner import Backbone, require_counts, require_positive
from metarun.learner.prediction import Predictor
from metarun.numerics.gradient_input import preprocess
from metarun.tasks import Examples, TaskLoss


class Pair(nn.Module):
    """The features of two networks of one kind beside each other, `[n, 2 d]`."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.u, self.b = backbone(outputs=None), backbone(outputs=None)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.u(x), self.b(x)], 1)


class Generator(nn.Sequential):
    """From gradients to fast weights of the same shape, coordinate by coordinate.

    Args:
        units: width of its two hidden layers.
        p: gradients below exp(-p) count as small.
    """

    def __init__(self, units: int, p: float) -> None:
        super().__init__(nn.Linear(2, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, 1))
        self.p = p

    def forward(self, gradient: Tensor) -> Tensor:
        return super().forward(preprocess(gradient, self.p)).squeeze(-1)


class MetaNet(Embedding):
    """Classifies by slow weights, and by fast ones that a query picks from those of the support examples.

    Its weights hold it to one number of ways.

    Args:
        backbone, loss: as in `Embedding`; the loss is that of the queries.
        outputs: ways.
        units: of the hidden layer of either network.
        generator: units of the hidden layers of the weight generators.
        p: gradients below exp(-p) count as small.

    Raises:
        ValueError: counts that are no whole numbers of at least 1, or p not above 0.
    """

    labels: Tensor

    def __init__(self, backbone: Backbone, outputs: int, loss: TaskLoss, units: int, generator: int, p: float) -> None:
        require_counts(least=1, units=units, generator=generator)
        require_positive(p=p)
        super().__init__(lambda **_: Pair(backbone), outputs, loss)
        d = feature_dim(backbone)
        self.keys, self.hidden = nn.Linear(d, units, bias=False), nn.Linear(d, units, bias=False)
        self.classes = nn.Linear(units, outputs, bias=False)
        self.register_buffer("labels", (2 * torch.rand(outputs, units) - 1) / sqrt(units))  # as a linear layer starts
        self.of_task, self.of_example = Generator(generator, p), Generator(generator, p)

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        del random_inputs  # draws nothing
        u, b = support.x.chunk(2, 1)
        hot = one_hot(support.y, len(self.labels), b.dtype)
        fast = self.of_task(gradients(u, hot, self.keys.weight, self.labels)[0]).mean(0)
        memory = [self.of_example(g) for g in gradients(b, hot, self.hidden.weight, self.classes.weight)]
        keys = self.keys(u) + F.linear(u, fast)

        def predict(z: Tensor) -> Tensor:
            u, b = z.chunk(2, 1)
            attention = self.attention(self.keys(u) + F.linear(u, fast), keys)
            s = self.hidden(b).relu() + _recalled(attention, memory[0], b).relu()
            return self.classes(s) + _recalled(attention, memory[1], s)

        return predict

    def attention(self, asked: Tensor, keys: Tensor) -> Tensor:
        """How much of each of n memories each of m queries takes, `[m, n]`, from keys `[m, units]` and `[n, units]`."""
        return (F.normalize(asked, dim=1) @ F.normalize(keys, dim=1).T).softmax(1)


def gradients(z: Tensor, hot: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Of the cross-entropy of `last` relu(`first` z), by `first` and by `last`, at each example: constants to autograd.

    From z `[n, d]`, labels one-hot `[n, ways]`, to `[n, units, d]` and `[n, ways, units]`.
    """
    z, first, last = z.detach(), first.detach(), last.detach()
    before = F.linear(z, first)
    error = F.linear(before.relu(), last).softmax(1) - hot
    back = (error @ last) * (before > 0)
    return back.unsqueeze(2) * z.unsqueeze(1), error.unsqueeze(2) * before.relu().unsqueeze(1)


def _recalled(attention: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """(sum_i a_i W_i) x of each row of x `[m, d]`, from W `[n, k, d]` and a `[m, n]`, without making the sums."""
    each = F.linear(x, weights.flatten(0, 1)).unflatten(1, weights.shape[:2])  # [m, n, k]
    return (attention.unsqueeze(2) * each).sum(1)
