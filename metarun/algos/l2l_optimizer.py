"""The learned optimizer: an LSTM maps the gradients of each coordinate to the coordinate's update.

Andrychowicz, Denil, Gomez, Hoffman, Pfau, Schaul, Shillingford, de Freitas: Learning to learn by gradient descent by
gradient descent, NIPS 2016, arXiv 1606.04474. Official code: github google-deepmind/learning-to-learn (meta.py,
networks.py, util.py, train.py, nn/gated_rnn.py).

Inner problem, as in learner/update_rule.py: theta_{t+1} = theta_t + g_t, where each coordinate has a memory h, and
    g_t = c (w^T o_t + b),    (o_t, h_{t+1}) = m(psi(grad f_t(theta_t)), h_t),    m: two layers of LSTM
Outer problem, over tasks, each an episode of S steps:
    min_{m, w, b}  mean_i sum_{t=1}^S f_t(theta_t)
  by truncated back-propagation through segments of U steps: theta and h at the start of a segment are constants, and so
  are all input gradients. Each segment is an objective with its own outer step.

    symbol   code                           shape / unit
    m, w, b  self.cells, self.head          shared by all coordinates
    h        state                          (output, cell), [P, units] each, for each of the two layers
    psi      gradient_input                 `scale`: times s; `log`: logarithm and sign (numerics/gradient_input.py)
    s, c     gradient_scale, output_scale   0-dim
    S, U     inner_steps, unroll            steps
    f_t      value                          L on the mini-batch of step t

Differences from the paper
    - For each segment the episode is restarted and run up to the segment's start by the current optimizer; the official
      code continues from the theta and h that the optimizer reached before its last outer step.
    - f_0(theta_0) is not in the sum, as it does not depend on the optimizer. In the official code the end of each
      segment has a mini-batch of its own.
    - b and the LSTMs' biases are initialised to 0, those of forget gates to 1 (as in the official code). Of w and -w,
      which are equally likely, the one that moves against a constant gradient is chosen.
    - There is one optimizer for all layers; for CIFAR-10 the paper has one for convolutions and one for the rest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from metarun.checks import require_choice, require_int, require_positive
from metarun.layers.lstm_cell import LSTMCell
from metarun.learner.learner import Backbone, Stage
from metarun.learner.update_rule import UpdateRule
from metarun.numerics.gradient_input import preprocess
from metarun.tasks import Batch, Examples, Task, TaskLoss

State = list[tuple[Tensor, Tensor]]
INPUTS = {"scale": 1, "log": 2}  # inputs per coordinate


class LearnedOptimizer(UpdateRule):
    """Learns an update rule: a small LSTM shared by all coordinates.

    Args:
        backbone, outputs, loss: as in `UpdateRule`.
        units: width of the two LSTM layers.
        gradient_input: psi, `scale` or `log`.
        gradient_scale: s of psi = `scale`.
        log_p: p of psi = `log`.
        output_scale: c.
        inner_steps: S in training.
        unroll: U.
        common: init_std, batch and eval_steps, as in `UpdateRule`.

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
        require_choice("algo.gradient_input", gradient_input, INPUTS)
        require_int("algo", minimum=1, units=units, inner_steps=inner_steps, unroll=unroll)
        require_positive("algo", gradient_scale=gradient_scale, log_p=log_p, output_scale=output_scale)
        super().__init__(backbone, outputs, loss, **common)
        cells = [LSTMCell(INPUTS[gradient_input], units), LSTMCell(units, units)]
        for cell in cells:
            cell.bias.data = torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(units)  # of i, f, g, o
        self.cells = nn.ModuleList(cells)
        self.head = nn.Linear(units, 1)
        self.register_hyperparameter("gradient_scale", gradient_scale)
        self.register_hyperparameter("output_scale", output_scale)
        self.gradient_input, self.log_p, self.units, self.inner_steps = gradient_input, log_p, units, inner_steps
        segments = [range(inner_steps)[start : start + unroll] for start in range(0, inner_steps, unroll)]
        self.segments = {f"steps {steps[0]}-{steps[-1]}": steps for steps in segments}
        self.stages = (Stage(objectives=tuple(self.segments)),)
        self._orient_head(torch.tensor([1.0, -1.0]) / gradient_scale)

    @torch.no_grad()
    def _orient_head(self, gradients: Tensor) -> None:
        """Choose the sign of w such that repeated steps move against a positive and a negative constant gradient."""
        nn.init.zeros_(self.head.bias)
        state, moved = self.begin(gradients), torch.zeros(2)
        for _ in range(20):
            change, state = self.update(gradients, state)
            moved += change
        if moved[0] > moved[1]:
            self.head.weight.neg_()

    def parameter_groups(self) -> list[dict]:
        return [{"name": "all", "params": list(self.parameters())}]  # every segment steps all parameters

    def begin(self, theta: Tensor) -> State:
        zero = theta.new_zeros(len(theta), self.units)
        return [(zero, zero) for _ in self.cells]

    def update(self, gradient: Tensor, state: State) -> tuple[Tensor, State]:
        if self.gradient_input == "scale":
            x = self.gradient_scale * gradient.unsqueeze(-1)
        else:
            x = preprocess(gradient, self.log_p)
        new_state: State = []
        for cell, layer_state in zip(self.cells, state, strict=True):
            x, memory = cell(x, *layer_state)
            new_state.append((x, memory))
        return self.output_scale * self.head(x).squeeze(-1), new_state

    def forward(self, batch: Batch, random_inputs: Any = (), objective: str = "all") -> Tensor:
        return self.map_tasks(
            lambda task, random_inputs: self.meta_loss(task, random_inputs, objective), batch, random_inputs
        )

    def meta_loss(self, task: Task, random_inputs: Any = (), objective: str = "all") -> Tensor:
        """The sum of f_t(theta_t) over the steps of one segment, or of all segments, each differentiated separately."""
        theta = self.first(random_inputs)
        state, losses = self.begin(theta), []
        for name, steps in self.segments.items():
            selected = objective in (name, "all")
            with torch.set_grad_enabled(selected and torch.is_grad_enabled()):
                loss, theta, state = self._unroll(task.support, steps, theta, state, random_inputs)
            theta, state = pytree.tree_map(torch.detach, (theta, state))
            losses += [loss] if selected else []
            if name == objective:
                break
        return torch.stack(losses).sum()

    def _unroll(self, support: Examples, steps: range, theta: Tensor, state: State, random_inputs: Any) -> Any:
        """The sum of f after each of the steps, and the final theta and state."""
        loss = theta.new_zeros(())
        gradient, _ = self.slope(theta, support, steps[0], random_inputs)
        for step in steps:
            change, state = self.update(gradient, state)
            theta = theta + change
            gradient, value = self.slope(theta, support, step + 1, random_inputs)
            # Input gradients are constants, so this has the value and the derivative of f without another pass.
            loss = loss + value + (gradient * (theta - theta.detach())).sum()
        return loss, theta, state
