"""A long short-term memory cell (Hochreiter, Schmidhuber 1997) that runs under vmap, where torch's own fails."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LSTMCell(nn.Module):
    """One step: i, f, g, o = W_ih x + W_hh h + b; c <- sigma(f) c + sigma(i) tanh(g); h = sigma(o) tanh(c).

    Args:
        inputs: width of x.
        width: width of the cell c and of the output.
        context: width of the state h that the gates take; None: `width`, that of the output of the step before.
    """

    def __init__(self, inputs: int, width: int, context: int | None = None) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(4 * width, inputs))
        self.weight_hh = nn.Parameter(torch.empty(4 * width, width if context is None else context))
        self.bias = nn.Parameter(torch.empty(4 * width))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)  # as torch's

    def forward(self, x: Tensor, state: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the output and the new cell, `[m, width]` each.

        Args:
            x: inputs, `[m, inputs]`.
            state: h, `[m, context]`.
            c: the cell, `[m, width]`.
        """
        gates = F.linear(x, self.weight_ih, self.bias) + F.linear(state, self.weight_hh)
        i, f, g, o = gates.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
