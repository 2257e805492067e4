"""Meta-LSTM: a recurrent network whose cell state is the learner's weights says how each step changes them.

Ravi, Larochelle: Optimization as a Model for Few-Shot Learning, ICLR 2017. Official code: github
twitter/meta-learning-lstm (model/lstm/meta-learner-lstm.lua, lstm-helper.lua, RecurrentLSTMNetwork.lua).

Inner problem, S steps on the support set D. Each coordinate of the weights theta goes alone; all share the networks.
    g_t = grad L(theta_{t-1}, D) / n,  l_t = L(theta_{t-1}, D)    constants: nothing is differentiated through them
    (h_t, s_t) = LSTM([pre(l_t), pre(g_t)], h_{t-1}, s_{t-1})     pre: gradient_input.py, two numbers of each
    f_t = W_F [h_t, theta_{t-1}, f_{t-1}] + b_F                   the gates before their sigmoid, which is what the
    i_t = W_I [h_t, theta_{t-1}, i_{t-1}] + b_I                   next step sees of them
    theta_t = sigma(f_t) theta_{t-1} - sigma(i_t) g_t             plain SGD where sigma(f) = 1 and sigma(i) = alpha
Outer problem, over tasks with query sets D':
    min  mean_i L(theta_S(D_i), D'_i)    over theta_0, LSTM, W_F, b_F, W_I, b_I

    symbol        code                      shape / unit
    theta         self.net, theta           the backbone's parameters, flat: [P]; theta_0 is learned
    LSTM          self.lstm                 4 numbers to `hidden`
    W_F, b_F      self.forget               `hidden` + 2 numbers to one; b_F starts in [4, 5]
    W_I, b_I      self.input                likewise; b_I starts in [-5, -4]
    h, s, f, i    State                     [P, hidden] twice, [P] twice; all 0 at the start of a task
    S             inner_steps               steps in training; `eval_steps` at test
    p             p                         of pre
    n             examples of D             or 1: `divide_gradient`
    L             self.loss                 mean over a set's examples (Learner.meta_loss is the outer one)

A step sees the whole support set, as the official mini-batches of 5 (1 shot) and 25 (5 shots) do for 5 ways.

Differences from the paper
    - Batch norm normalises queries as the backbone says, by default all together. The official learner normalises test
      queries with running statistics of the task's own steps.
    - The gradient of the mean loss is divided once more by n, as in the official code; the paper has no such factor
      (`divide_gradient: false`).
    - The outer gradient is clipped to norm 0.25 in the paper; here that is the run's (`optimizer.max_grad_norm`).
    - Several tasks may make an outer step (run.meta_batch_size); the paper has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad_and_value

from metarun.layers.lstm_cell import LSTMCell
from metarun.learner.gradient_descent import named_pieces
from metarun.learner.learner import Backbone, Learner, require_counts, require_positive
from metarun.learner.prediction import Predictor
from metarun.numerics.gradient_input import preprocess
from metarun.tasks import Examples, TaskLoss


class State(NamedTuple):
    """What the meta-learner keeps of each coordinate: h and s `[P, hidden]`, gates before their sigmoid `[P]`."""

    h: Tensor
    s: Tensor
    f: Tensor
    i: Tensor


class MetaLSTM(Learner):
    """Learns an initialisation, and an update rule from gradients that each weight follows on its own.

    Args:
        backbone: makes the learner's network, `backbone(outputs=...)`.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        hidden: units of the LSTM.
        p: gradients and losses below exp(-p) count as small.
        divide_gradient: divide the gradient of the mean loss by the number of support examples.
        inner_steps: S in training.
        eval_steps: steps at which the headline is measured.

    Raises:
        ValueError: counts that are no whole numbers of at least zero (`hidden`: one), or p not above 0.
    """

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        hidden: int,
        p: float,
        divide_gradient: bool,
        inner_steps: int,
        eval_steps: int,
    ) -> None:
        super().__init__(loss)
        require_counts(inner_steps=inner_steps, eval_steps=eval_steps)
        require_counts(least=1, hidden=hidden)
        require_positive(p=p)
        self.inner_steps, self.eval_steps = inner_steps, eval_steps
        self.p, self.divide_gradient = p, divide_gradient
        self.net = backbone(outputs=outputs)
        self.lstm = LSTMCell(4, hidden)
        self.forget, self.input = nn.Linear(hidden + 2, 1), nn.Linear(hidden + 2, 1)
        for part in (self.lstm, self.forget, self.input):
            for parameter in part.parameters():
                nn.init.uniform_(parameter, -0.01, 0.01)
        nn.init.uniform_(self.forget.bias, 4, 5)
        nn.init.uniform_(self.input.bias, -5, -4)

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # draws nothing
        theta = torch.cat([parameter.flatten() for parameter in self.net.parameters()])
        state = self.start(theta)
        yield self._predictor(theta, support)
        for _ in range(steps):
            # Taken at detached weights they are constants, and autograd records nothing of their making.
            gradient, loss = grad_and_value(self._support_loss)(theta.detach(), support)
            gradient = gradient / len(support.y) if self.divide_gradient else gradient
            theta, state = self.update(theta, gradient, loss, state)
            yield self._predictor(theta, support)

    def start(self, theta: Tensor) -> State:
        """The state before a task's first step."""
        wide = theta.new_zeros(len(theta), self.forget.in_features - 2)
        return State(wide, wide, torch.zeros_like(theta), torch.zeros_like(theta))

    def update(self, theta: Tensor, gradient: Tensor, loss: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: from weights and gradient `[P]` and the loss (0-dim) to new weights and state."""
        seen = torch.cat([preprocess(loss, self.p).expand(len(theta), 2), preprocess(gradient, self.p)], 1)
        h, s = self.lstm(seen, state.h, state.s)
        f, i = (
            gate(torch.cat([h, theta.unsqueeze(1), before.unsqueeze(1)], 1)).squeeze(1)
            for gate, before in ((self.forget, state.f), (self.input, state.i))
        )
        return f.sigmoid() * theta - i.sigmoid() * gradient, State(h, s, f, i)

    def diagnostics(self) -> dict[str, Tensor]:
        """The gates of a weight at 0 in its first step, for an LSTM that says nothing."""
        return {"forget_gate": self.forget.bias.sigmoid().mean(), "input_gate": self.input.bias.sigmoid().mean()}

    def _support_loss(self, theta: Tensor, support: Examples) -> Tensor:
        return self.loss(self._predictor(theta, support)(support.x), support.y)

    def _predictor(self, theta: Tensor, support: Examples) -> Predictor:
        shapes = {name: parameter.shape for name, parameter in self.net.named_parameters()}
        return self.functional_predictor(self.net, named_pieces(theta, shapes), support)
