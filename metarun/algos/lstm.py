"""LSTM: a recurrent network that reads examples and their late labels, with nothing to keep them in but its cell.

Hochreiter, Younger, Conwell: Learning to Learn Using Gradient Descent, ICANN 2001; as the baseline of Santoro,
Bartunov, Botvinick, Wierstra, Lillicrap: Meta-Learning with Memory-Augmented Neural Networks, ICML 2016, arXiv
1605.06065, where it does not suffice. Its authors' code is not public; read: github tristandeleu/ntm-one-shot.

Inner problem, no optimisation: the cell takes in the examples one after the other,
    (h_t, c_t) = LSTM([f(x_t), y_{t-1}], h_{t-1}, c_{t-1}),    s_t = W h_t + b
Outer problem, over sequences:    min  mean_t CE(s_t, y_t)

    symbol   code                  shape / unit
    f        self.net              the backbone without a last layer, [n, d]; `pixels` in the paper
    y        told                  one-hot, of the step before; zeros at the first
    h, c     state                 [m, units] each, zero at the start
    W, b     self.classifier       units to ways

Differences from the paper
    - Labels are one-hot and the loss is cross-entropy; the paper also has five-letter strings as labels, for many ways.
    - Characters are turned by multiples of 90 degrees as new classes (data.partition), but not shifted or turned a little.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metarun.layers.lstm_cell import LSTMCell
from metarun.learner.embedding import feature_dim
from metarun.learner.learner import Backbone, require_counts
from metarun.learner.sequence import Recurrent
from metarun.tasks import TaskLoss


class LSTM(Recurrent):
    """Reads a sequence of examples and remembers what it can.

    Args:
        backbone, outputs, loss: as in `Recurrent`.
        units: width of cell and output.

    Raises:
        ValueError: `units` no whole number of at least 1.
    """

    def __init__(self, backbone: Backbone, outputs: int, loss: TaskLoss, units: int) -> None:
        super().__init__(backbone, outputs, loss)
        require_counts(least=1, units=units)
        self.cell = LSTMCell(feature_dim(backbone) + outputs, units)
        self.classifier = nn.Linear(units, outputs)

    def start(self, rows: int, like: Tensor) -> tuple[Tensor, Tensor]:
        zero = like.new_zeros(rows, self.classifier.in_features)
        return zero, zero

    def present(self, z: Tensor, told: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        state = self.cell(torch.cat([z, told], 1), *state)
        return self.classifier(state[0]), state
