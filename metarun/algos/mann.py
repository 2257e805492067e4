"""MANN: a recurrent network with an external memory, written to its least used rows and read by similarity.

Santoro, Bartunov, Botvinick, Wierstra, Lillicrap: Meta-Learning with Memory-Augmented Neural Networks, ICML 2016, arXiv
1605.06065. The authors' code is not public; ports: github tristandeleu/ntm-one-shot (mann/model.py), snowkylin/ntm.

Inner problem, without optimisation: at step t, with a memory M of N rows and R heads i,
    (h_t, c_t) = LSTM([f(x_t), y_{t-1}, r_{t-1}], h_{t-1}, c_{t-1}),    (k, a, g)_i = tanh, tanh, sigma of W' h_t + b'
    ww_t^i = g_i wr_{t-1}^i + (1 - g_i) wlu_{t-1}^i,    wlu^i: 1 at the i-th least used row by wu, else 0
    M_t = M_{t-1} with its least used row erased + sum_i ww_t^i a_i^T
    wr_t^i(j) = softmax_j( beta cos(k_i, M_t(j)) ),    r_t = [ sum_j wr_t^i(j) M_t(j) ]_i
      cos(k, M) = k . M / sqrt(|k|^2 |M|^2 + 1e-6):  about 0 for a row that was never written
    wu_t = gamma wu_{t-1} + sum_i wr_t^i + ww_t^i
    s_t = W [h_t, r_t] + b
Outer problem, over sequences:    min  mean_t CE(s_t, y_t)

    symbol       code                              shape / unit
    f            self.net                          the backbone without a last layer, [n, d]; `pixels` in the paper
    y_{t-1}      label                             one-hot label of the previous step; zeros at the first
    M            state.memory                      [m, N, width], one for each of m sequences; 1e-6 at the start
    r            state.read                        [m, R width]
    wr           state.read_weights                [m, R, N]
    ww, wlu      write_weights, least              [m, R, N]
    wu           state.usage                       [m, N]
    k, a, g      key, added, gate                  [m, R, width], [m, R, width], [m, R, 1]
    beta, gamma  self.sharpness, self.decay        0-dim
    N, R         rows, heads                       integers

Differences from the paper
    - beta is that of neural Turing machines; it is 1 in the paper. A cosine is at most 1: without beta the softmax over
      N rows is nearly uniform, and learning starts late.
    - The vector that is written (a) differs from the key (k), and the gate g depends on h, as in both ports. In the
      paper k serves as both.
    - Head i writes to the i-th least used row, as in tristandeleu's port; the paper's wlu marks R rows for every head.
    - Rows are read after this step's write. Ties in usage go to the row with the lower index.
    - r, h, c, wr and wu are zero at the start; in the ports wr and wu are one at the first row.
    - Weights of k, a and g are initialised larger than torch's default, by Glorot's rule for tanh; the paper's
      initialisation is unknown.
    - As for `lstm`: one-hot labels and no strings, and rotations of characters by multiples of 90 degrees only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from metarun.checks import is_number, require, require_int, require_positive
from metarun.layers.lstm_cell import LSTMCell
from metarun.learner.embedding import feature_dim
from metarun.learner.learner import Backbone
from metarun.learner.sequence import Recurrent
from metarun.tasks import TaskLoss

BLANK = 1e-6  # initial value of the memory
EPS = 1e-6  # added to the product of two squared lengths in a cosine


class State(NamedTuple):
    """The state of m sequences after a step."""

    h: Tensor
    c: Tensor
    memory: Tensor
    read: Tensor
    read_weights: Tensor
    usage: Tensor


class MANN(Recurrent):
    """Writes examples and labels into a memory, and classifies an example from the rows that resemble it.

    Args:
        backbone, outputs, loss: as in `Recurrent`.
        rows: N, rows of the memory.
        width: of a row.
        units: of the LSTM.
        heads: R, number of read heads and of write heads.
        decay: gamma, factor of the usage in each step.
        sharpness: beta, of the attention to rows.

    Raises:
        ValueError: a count that is not an integer of at least 1, more heads than rows, a decay outside [0, 1), or a
            sharpness that is not above 0.
    """

    decay: Tensor
    sharpness: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        rows: int,
        width: int,
        units: int,
        heads: int,
        decay: float,
        sharpness: float,
    ) -> None:
        require_int("algo", minimum=1, rows=rows, width=width, units=units, heads=heads)
        require_positive("algo", sharpness=sharpness)
        require("algo.heads", heads, heads <= rows, f"at most algo.rows={rows}, as each head writes to its own row")
        require("algo.decay", decay, is_number(decay) and 0 <= decay < 1, "at least 0 and below 1")
        super().__init__(backbone, outputs, loss)
        self.rows, self.width, self.heads = rows, width, heads
        self.register_hyperparameter("decay", decay)
        self.register_hyperparameter("sharpness", sharpness)
        self.cell = LSTMCell(feature_dim(backbone) + outputs + heads * width, units)
        self.controls = nn.Linear(units, heads * (2 * width + 1))
        self.classifier = nn.Linear(units + heads * width, outputs)
        # Glorot's rule for tanh, per head: with torch's smaller weights, early writes are too weak to be read.
        bound = 5 / 3 * (6 / (units + width)) ** 0.5
        nn.init.uniform_(self.controls.weight, -bound, bound)

    def start(self, rows: int, like: Tensor) -> State:
        h = like.new_zeros(rows, self.controls.in_features)
        memory = like.new_full((rows, self.rows, self.width), BLANK)
        read = like.new_zeros(rows, self.heads * self.width)
        read_weights = like.new_zeros(rows, self.heads, self.rows)
        return State(h, h, memory, read, read_weights, usage=read_weights[:, 0])

    def present(self, z: Tensor, label: Tensor, state: State) -> tuple[Tensor, State]:
        h, c = self.cell(torch.cat([z, label, state.read], 1), state.h, state.c)
        controls = self.controls(h).unflatten(1, (self.heads, -1))
        key, added = controls[..., :-1].tanh().chunk(2, -1)
        gate = controls[..., -1:].sigmoid()

        least = least_used(state.usage, self.heads)
        write_weights = gate * state.read_weights + (1 - gate) * least
        memory = state.memory * (1 - least[:, 0, :, None]) + write_weights.mT @ added  # erases the least used row
        read_weights = (self.sharpness * cosines(key, memory)).softmax(-1)
        read = (read_weights @ memory).flatten(1)
        usage = self.decay * state.usage + (read_weights + write_weights).sum(1)
        return self.classifier(torch.cat([h, read], 1)), State(h, c, memory, read, read_weights, usage)


def least_used(usage: Tensor, count: int) -> Tensor:
    """The `count` least used rows of each sequence, the least used first, one-hot `[m, count, N]`; usage `[m, N]`."""
    order = usage.argsort(dim=1, stable=True)[:, :count]
    return (order[..., None] == torch.arange(usage.shape[1], device=usage.device)).to(usage.dtype)


def cosines(keys: Tensor, memory: Tensor) -> Tensor:
    """Cosines `[m, R, N]` between keys `[m, R, width]` and rows `[m, N, width]`; about 0 for a blank row.

    As in tristandeleu's port, `EPS` is added to the product of the squared lengths: added to each, far below a blank
    row's, it would leave a blank row a cosine as large as a written row's.
    """
    squares = keys.square().sum(-1)[..., :, None] * memory.square().sum(-1)[..., None, :]
    return keys @ memory.mT * (squares + EPS).rsqrt()
