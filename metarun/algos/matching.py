"""Matching networks: a query's label is an attention-weighted vote of the support examples.

Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra: Matching Networks for One Shot Learning, NeurIPS 2016, arXiv
1606.04080. There is no official code; github twitter/meta-learning-lstm has a port (model/baselines/FCE-embedding.lua).

Inner problem, solved at once; (x_i, y_i) the support examples, x a query:
    a_i(x) = softmax_i( cos(f(x), g(x_i)) / T )
    p(y = k | x) = sum of a_i(x) over the i of class k                               (eq. 1)
Outer problem, over tasks with query sets D':
    min_{f, g}  mean_i mean_{(x, y) in D'_i}  - log p(y | x)

Without full context embeddings f and g are the backbone. With them (`fce`), for n examples and g' = f' the backbone:
    g(x_i) = fwd_i + bwd_i + g'(x_i),    fwd: the states of an LSTM that reads g'(x_1), ..., g'(x_n),
                                         bwd: of one that reads them in reverse      (appendix A.2)
    f(x) = h_K,  h_k = LSTM(f'(x), [h_{k-1}, r_{k-1}], c_{k-1}) + f'(x)              (eqs. 3 and 4)
    r_k = sum_i softmax_i( h_k . g(x_i) ) g(x_i)                                     (eqs. 5 and 6)

    symbol     code                         shape / unit
    f', g'     self.net                     the backbone without a last layer, to embeddings [n, d]
    a          log_attention                [m, n], its logarithm; rows sum to one
    T          self.temperature             0-dim
    fwd, bwd   forward_lstm, backward_lstm  [n, d] each
    h, r       attend                       [m, d] each, from zero and from the mean of g
    K          read_steps                   integer

Differences from the paper
    - T is 1 in the paper: cosines lie in [-1, 1], so that no query can be classified with confidence.
    - f' and g' are one network, as in the paper's experiments, by default with running batch norm.
    - The appendix does not specify the initial h; here it is zero, so that the first read is the mean of g.
    - With `fce` predictions depend on the order of the support set, as in the paper.
    - There is no fine-tuning on the support set of a test task, and no dropout.
    - An outer step takes `run.meta_batch_size` tasks of `data.train_ways` ways. Optimizer and schedule are the run's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metarun.checks import require_int, require_positive
from metarun.layers.lstm_cell import LSTMCell
from metarun.learner.embedding import Embedding, feature_dim, one_hot
from metarun.learner.learner import Backbone
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss


class MatchingNet(Embedding):
    """A class probability is the total attention to the support examples of the class; scores are log probabilities.

    Every class must have a support example; the score of a class without one is minus infinity.

    Args:
        backbone, ways, loss: as in `Embedding`.
        temperature: T.
        fce: use full context embeddings.
        read_steps: K, with `fce`.

    Raises:
        ValueError: a temperature that is not above 0, or steps that are not an integer of at least 1.
    """

    temperature: Tensor

    def __init__(
        self, backbone: Backbone, ways: int, loss: TaskLoss, temperature: float, fce: bool, read_steps: int
    ) -> None:
        require_positive("algo", temperature=temperature)
        require_int("algo", minimum=1, read_steps=read_steps)
        super().__init__(backbone, ways, loss)
        self.register_hyperparameter("temperature", temperature)
        self.fce, self.read_steps = fce, read_steps
        if fce:
            d = feature_dim(backbone)
            self.forward_lstm, self.backward_lstm = LSTMCell(d, d), LSTMCell(d, d)
            self.attention_lstm = LSTMCell(d, d, 2 * d)

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        del random_inputs  # draws nothing
        g = self.in_context(support.x) if self.fce else support.x
        other_class = one_hot(support.y, self.ways, g.dtype) == 0  # [n, ways]

        def predict(z: Tensor) -> Tensor:
            log_attention = self.log_attention(self.attend(z, g) if self.fce else z, g)
            # Sum in log space: a probability that rounds to 0 would have an infinite loss.
            return log_attention[:, :, None].masked_fill(other_class, -torch.inf).logsumexp(1)

        return predict

    def log_attention(self, f: Tensor, g: Tensor) -> Tensor:
        """log a, `[m, n]`, of queries f `[m, d]` to support examples g `[n, d]`."""
        cosines = F.normalize(f, dim=1) @ F.normalize(g, dim=1).T
        return (cosines / self.temperature).log_softmax(1)

    def in_context(self, z: Tensor) -> Tensor:
        """g `[n, d]` from the support set's embeddings g' `[n, d]`, in their order."""
        fwd = _read(self.forward_lstm, z)
        return fwd + _read(self.backward_lstm, z.flip(0)).flip(0) + z

    def attend(self, z: Tensor, g: Tensor) -> Tensor:
        """f `[m, d]` from the queries' embeddings f' `[m, d]`, which read g `[n, d]` K times."""
        h = c = torch.zeros_like(z)
        for _ in range(self.read_steps):
            r = (h @ g.T).softmax(1) @ g
            h, c = self.attention_lstm(z, torch.cat([h, r], 1), c)
            h = h + z
        return h


def _read(lstm: LSTMCell, z: Tensor) -> Tensor:
    """States `[n, d]` of an LSTM that reads the rows of z in order."""
    h = c = torch.zeros_like(z[:1])
    states = []
    for x in z.split(1):
        h, c = lstm(x, h, c)
        states.append(h)
    return torch.cat(states)
