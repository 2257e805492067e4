"""The learned optimizer: an LSTM looks at each coordinate's gradients and says by how much to move it.

Andrychowicz, Denil, Gomez, Hoffman, Pfau, Schaul, Shillingford, de Freitas: Learning to learn by gradient descent by
gradient descent, NIPS 2016, arXiv 1606.04474. Official code: github google-deepmind/learning-to-learn (meta.py,
networks.py, util.py, train.py, nn/gated_rnn.py).

Inner problem, as in update_rule.py: theta_{t+1} = theta_t + g_t, where each coordinate has a memory h of its own, and
    g_t = c (w^T o_t + b),    (o_t, h_{t+1}) = m(psi(grad f_t(theta_t)), h_t),    m: two layers of LSTM
Outer problem, over tasks, each an episode of S steps:
    min_{m, w, b}  mean_i sum_{t=1}^S f_t(theta_t)
  by back-propagation through segments of U steps: theta and h at a segment's start are constants, and so is every
  gradient that is put in. Each segment is an objective of its own, with an outer step of its own.

    symbol   code                           shape / unit
    m, w, b  self.cells, self.head          shared by all coordinates
    h        state                          (output, cell), [P, units] each, for each of the two layers
    psi      gradient_input                 `scale`: times s; `log`: logarithm and sign (gradient_input.py)
    s, c     gradient_scale, output_scale   0-dim
    S, U     inner_steps, unroll            steps; f_t is L on the mini-batch of step t

Differences from the paper
    - An episode is begun anew for each of its segments, and led to the segment's start by the optimizer as it is now;
      officially the theta and h that the optimizer of a moment ago had come to are taken up.
    - f_0(theta_0) is not in the sum: nothing changes it. Officially each segment's end has a mini-batch of its own.
    - b and the LSTMs' biases start at 0, of forget gates at 1 (officially too). Of w and -w, otherwise equally likely,
      that is taken which goes against a gradient that stays the same.
    - One optimizer for all layers; for CIFAR-10 the paper has one for convolutions, one for the others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from metarun.layers.lstm_cell import LSTMCell
from metarun.learner.learner import Backbone, Stage, require_counts, require_positive
from metarun.learner.update_rule import UpdateRule
from metarun.numerics.gradient_input import preprocess
from metarun.tasks import Batch, Examples, Task, TaskLoss

State = list[tuple[Tensor, Tensor]]
INPUTS = {"scale": 1, "log": 2}  # numbers of each coordinate


class LearnedOptimizer(UpdateRule):
    """Learns an update rule: a small LSTM that is the same for every coordinate.

    Args:
        backbone, outputs, loss, and of `common` init_std, batch, eval_steps: as in `UpdateRule`.
        units: width of the two LSTM layers.
        gradient_input, gradient_scale, log_p: psi, `scale` by s, or `log` with p.
        output_scale, inner_steps, unroll: c, S in training, U.

    Raises:
        ValueError: an unknown psi, a number that is not above 0, a count below 1, or as `UpdateRule`.
    """

    gradient_scale: Tensor
    output_scale: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        *,
        units: int,
        gradient_input: str,
        gradient_scale: float,
        log_p: float,
        output_scale: float,
        inner_steps: int,
        unroll: int,
        **common: Any,
    ) -> None:
        if gradient_input not in INPUTS:
            raise ValueError(f"gradient_input must be one of {', '.join(INPUTS)}; got {gradient_input!r}")
        require_counts(least=1, units=units, inner_steps=inner_steps, unroll=unroll)
        require_positive(gradient_scale=gradient_scale, log_p=log_p, output_scale=output_scale)
        super().__init__(backbone, outputs, loss, **common)
        cells = [LSTMCell(INPUTS[gradient_input], units), LSTMCell(units, units)]
        for cell in cells:
            cell.bias.data = torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(units)  # of i, f, g, o
        self.cells = nn.ModuleList(cells)
        self.head = nn.Linear(units, 1)
        self.register_hyperparameter("gradient_scale", gradient_scale)
        self.register_hyperparameter("output_scale", output_scale)
        self.gradient_input, self.log_p, self.units, self.inner_steps = gradient_input, log_p, units, inner_steps
        segments = [range(inner_steps)[at : at + unroll] for at in range(0, inner_steps, unroll)]
        self.segments = {f"steps {steps[0]}-{steps[-1]}": steps for steps in segments}
        self.stages = (Stage(objectives=tuple(self.segments)),)
        self._go_down(torch.tensor([1.0, -1.0]) / gradient_scale)

    @torch.no_grad()
    def _go_down(self, gradients: Tensor) -> None:
        nn.init.zeros_(self.head.bias)
        state, moved = self.begin(gradients), torch.zeros(2)
        for _ in range(20):
            change, state = self.update(gradients, state)
            moved += change
        if moved[0] > moved[1]:
            self.head.weight.neg_()

    def parameter_groups(self) -> list[dict]:
        return [{"name": "all", "params": list(self.parameters())}]  # every segment steps all of it

    def begin(self, theta: Tensor) -> State:
        zero = theta.new_zeros(len(theta), self.units)
        return [(zero, zero) for _ in self.cells]

    def update(self, gradient: Tensor, state: State) -> tuple[Tensor, State]:
        scaled = self.gradient_input == "scale"
        x = self.gradient_scale * gradient.unsqueeze(-1) if scaled else preprocess(gradient, self.log_p)
        after: State = []
        for cell, before in zip(self.cells, state, strict=True):
            x, memory = cell(x, *before)
            after.append((x, memory))
        return self.output_scale * self.head(x).squeeze(-1), after

    def forward(self, batch: Batch, random_inputs: Any = (), objective: str = "all") -> Tensor:
        return self.map_tasks(
            lambda task, random_inputs: self.meta_loss(task, random_inputs, objective), batch, random_inputs
        )

    def meta_loss(self, task: Task, random_inputs: Any = (), objective: str = "all") -> Tensor:
        """The sum of f_t(theta_t) over the steps of a segment, or of all, each differentiated by itself."""
        theta = self.first(random_inputs)
        state, losses = self.begin(theta), []
        for name, steps in self.segments.items():
            wanted = objective in (name, "all")
            with torch.set_grad_enabled(wanted and torch.is_grad_enabled()):
                loss, theta, state = self._unroll(task.support, steps, theta, state, random_inputs)
            theta, state = pytree.tree_map(torch.detach, (theta, state))
            losses += [loss] if wanted else []
            if name == objective:
                break
        return torch.stack(losses).sum()

    def _unroll(self, support: Examples, steps: range, theta: Tensor, state: State, random_inputs: Any) -> Any:
        """The sum of f after each of these steps, and what theta and the state have come to."""
        loss = theta.new_zeros(())
        gradient, _ = self.slope(theta, support, steps[0], random_inputs)
        for step in steps:
            change, state = self.update(gradient, state)
            theta = theta + change
            gradient, value = self.slope(theta, support, step + 1, random_inputs)
            # theta reaches the loss by its own steps only: this has f's value and derivative, and takes no other pass
            loss = loss + value + (gradient * (theta - theta.detach())).sum()
        return loss, theta, state
