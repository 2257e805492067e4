"""MANN: a recurrent network with a memory beside it, whose least used rows are written and whose alike ones are read.

Santoro, Bartunov, Botvinick, Wierstra, Lillicrap: Meta-Learning with Memory-Augmented Neural Networks, ICML 2016, arXiv
1605.06065. Its authors' code is not public; read: github tristandeleu/ntm-one-shot (mann/model.py), snowkylin/ntm.

Inner problem, no optimisation: at step t, with a memory M of N rows and R heads i,
    (h_t, c_t) = LSTM([f(x_t), y_{t-1}, r_{t-1}], h_{t-1}, c_{t-1}),    (k, a, g)_i = tanh, tanh, sigma of W' h_t + b'
    ww_t^i = g_i wr_{t-1}^i + (1 - g_i) wlu_{t-1}^i,    wlu^i: one at the i-th least used row by wu, else zero
    M_t = M_{t-1} with its least used row erased + sum_i ww_t^i a_i^T
    wr_t^i(j) = softmax_j( beta cos(k_i, M_t(j)) ),    r_t = [ sum_j wr_t^i(j) M_t(j) ]_i
    wu_t = gamma wu_{t-1} + sum_i wr_t^i + ww_t^i
    s_t = W [h_t, r_t] + b
Outer problem, over sequences:    min  mean_t CE(s_t, y_t)

    symbol       code                              shape / unit
    f            self.net                          the backbone without a last layer, [n, d]; `pixels` in the paper
    y            told                              one-hot, of the step before; zeros at the first
    M            state.memory                      [m, N, width], of each of m sequences its own; 1e-6 at the start
    r            state.read                        [m, R width]
    wr, ww, wlu  state.reading, writing, least     [m, R, N]
    wu           state.usage                       [m, N]
    k, a, g      key, added, gate                  [m, R, width], [m, R, width], [m, R, 1]
    beta, gamma  self.sharpness, self.decay        0-dim
    N, R         rows, heads                       whole numbers

Differences from the paper
    - beta, as in neural Turing machines; the paper's is 1. A cosine is at most 1: without beta the softmax over N rows
      is nearly even, and learning starts late.
    - What is written (a) is not what is looked for (k), and the gate g comes of h: as in both ports. In the paper one k
      serves for both.
    - Head i writes to the i-th least used row, as in tristandeleu's port; the paper's wlu marks R rows for every head.
    - Rows are read after this step's writing. Rows equally used go by their number.
    - r, h, c, wr and wu are zero at the start; in the ports wr and wu are one at the first row.
    - Weights of k, a and g start larger than torch's, by Glorot's rule for tanh; the paper's start is not known to us.
    - As for `lstm`: one-hot labels and no strings, and characters turned by multiples of 90 degrees only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from metarun.layers.lstm_cell import LSTMCell
from metarun.learner.embedding import feature_dim
from metarun.learner.learner import Backbone, require_counts, require_positive
from metarun.learner.sequence import Recurrent
from metarun.tasks import TaskLoss

BLANK = 1e-6  # what every number in a memory starts as


class Remembered(NamedTuple):
    """The state after a step, of m sequences."""

    h: Tensor
    c: Tensor
    memory: Tensor
    read: Tensor
    reading: Tensor
    usage: Tensor


class MANN(Recurrent):
    """Writes what it is shown and told into a memory, and reads there what is like what it sees.

    Args:
        backbone, outputs, loss: as in `Recurrent`.
        rows: N, of the memory.
        width: of a row.
        units: of the LSTM.
        heads: R, that read, and as many that write.
        decay: gamma, of the usage in a step.
        sharpness: beta, of the attention to rows.

    Raises:
        ValueError: counts that are no whole numbers of at least 1, more heads than rows, a decay out of [0, 1), a
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
        require_counts(least=1, rows=rows, width=width, units=units, heads=heads)
        require_positive(sharpness=sharpness)
        if heads > rows:
            raise ValueError(f"heads must be at most rows={rows}, each writes to a row of its own; got {heads}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1; got {decay}")
        super().__init__(backbone, outputs, loss)
        self.rows, self.width, self.heads = rows, width, heads
        self.register_hyperparameter("decay", decay)
        self.register_hyperparameter("sharpness", sharpness)
        self.cell = LSTMCell(feature_dim(backbone) + outputs + heads * width, units)
        self.controls = nn.Linear(units, heads * (2 * width + 1))
        self.classifier = nn.Linear(units + heads * width, outputs)
        # Glorot's for tanh, head by head: what is written with torch's smaller weights is long too faint to be noticed.
        bound = 5 / 3 * (6 / (units + width)) ** 0.5
        nn.init.uniform_(self.controls.weight, -bound, bound)

    def start(self, rows: int, like: Tensor) -> Remembered:
        h = like.new_zeros(rows, self.controls.in_features)
        memory = like.new_full((rows, self.rows, self.width), BLANK)
        reading = like.new_zeros(rows, self.heads, self.rows)
        return Remembered(h, h, memory, like.new_zeros(rows, self.heads * self.width), reading, reading[:, 0])

    def present(self, z: Tensor, told: Tensor, state: Remembered) -> tuple[Tensor, Remembered]:
        h, c = self.cell(torch.cat([z, told, state.read], 1), state.h, state.c)
        controls = self.controls(h).unflatten(1, (self.heads, -1))
        key, added = controls[..., :-1].tanh().chunk(2, -1)
        gate = controls[..., -1:].sigmoid()

        least = least_used(state.usage, self.heads)
        writing = gate * state.reading + (1 - gate) * least
        memory = state.memory * (1 - least[:, 0, :, None]) + writing.mT @ added  # the first is erased
        reading = (self.sharpness * cosines(key, memory)).softmax(-1)
        read = (reading @ memory).flatten(1)
        usage = self.decay * state.usage + (reading + writing).sum(1)
        return self.classifier(torch.cat([h, read], 1)), Remembered(h, c, memory, read, reading, usage)


def least_used(usage: Tensor, count: int) -> Tensor:
    """One-hot `[m, count, N]`: of each sequence the rows that were used least, the least used first; usage `[m, N]`."""
    order = usage.argsort(dim=1, stable=True)[:, :count]
    return (order[..., None] == torch.arange(usage.shape[1], device=usage.device)).to(usage.dtype)


def cosines(keys: Tensor, memory: Tensor) -> Tensor:
    """`[m, R, N]` of keys `[m, R, width]` and rows `[m, N, width]`; about 0 to a row of zeros."""
    keys, memory = (v * (v.square().sum(-1, keepdim=True) + 1e-12).rsqrt() for v in (keys, memory))
    return keys @ memory.mT
