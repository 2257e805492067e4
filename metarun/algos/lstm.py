"""LSTM: a recurrent network that reads examples and their delayed labels, with its cell as the only memory.

Hochreiter, Younger, Conwell: Learning to Learn Using Gradient Descent, ICANN 2001; as the baseline of Santoro,
Bartunov, Botvinick, Wierstra, Lillicrap: Meta-Learning with Memory-Augmented Neural Networks, ICML 2016, arXiv
1605.06065, where it falls short. The authors' code is not public; reference read: github tristandeleu/ntm-one-shot.

Inner problem, without optimisation: the cell reads the examples one after the other,
    (h_t, c_t) = LSTM([f(x_t), y_{t-1}], h_{t-1}, c_{t-1}),    s_t = W h_t + b
Outer problem, over sequences:    min  mean_t CE(s_t, y_t)

    symbol   code                  shape / unit
    f        self.net              the backbone without a last layer, [n, d]; `pixels` in the paper
    y_{t-1}  label                 one-hot label of the previous step; zeros at the first
    h, c     state                 [m, units] each, zero at the start
    s        scores                [m, ways]
    W, b     self.classifier       units to ways

Differences from the paper
    - Labels are one-hot and the loss is cross-entropy; the paper also has five-letter strings as labels, for many ways.
    - Rotations of characters by multiples of 90 degrees are new classes (`data.partition`); there are no small random
      rotations or translations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metarun.checks import require_int
from metarun.layers.lstm_cell import LSTMCell
from metarun.learner.embedding import feature_dim
from metarun.learner.learner import Backbone
from metarun.learner.sequence import Recurrent
from metarun.tasks import TaskLoss

State = tuple[Tensor, Tensor]


class LSTM(Recurrent):
    """Classifies each example of a sequence from what its state retains of the examples before.

    Args:
        backbone, outputs, loss: as in `Recurrent`.
        units: width of the cell and of the output.

    Raises:
        ValueError: `units` is not an integer of at least 1.
    """

    def __init__(self, backbone: Backbone, outputs: int, loss: TaskLoss, units: int) -> None:
        super().__init__(backbone, outputs, loss)
        require_int("algo", minimum=1, units=units)
        self.cell = LSTMCell(feature_dim(backbone) + outputs, units)
        self.classifier = nn.Linear(units, outputs)

    def start(self, rows: int, like: Tensor) -> State:
        zero = like.new_zeros(rows, self.classifier.in_features)
        return zero, zero

    def present(self, z: Tensor, label: Tensor, state: State) -> tuple[Tensor, State]:
        h, c = self.cell(torch.cat([z, label], 1), *state)
        scores = self.classifier(h)
        return scores, (h, c)
