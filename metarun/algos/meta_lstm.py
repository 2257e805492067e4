"""Meta-LSTM: gradient descent as an LSTM whose cell state is the network's weights and whose gates are learned.

Ravi, Larochelle: Optimization as a Model for Few-Shot Learning, ICLR 2017. Official code: github
twitter/meta-learning-lstm (model/lstm/meta-learner-lstm.lua, lstm-helper.lua, RecurrentLSTMNetwork.lua).

Inner problem, S steps on the support set D. Coordinates of the weights theta are updated independently by shared
networks:
    g_t = grad L(theta_{t-1}, D) / n,  l_t = L(theta_{t-1}, D)    constants: no gradient flows through them
    (h_t, s_t) = LSTM([pre(l_t), pre(g_t)], h_{t-1}, s_{t-1})     pre: numerics/gradient_input.py, two numbers each
    f_t = W_F [h_t, theta_{t-1}, f_{t-1}] + b_F                   gates before their sigmoid; the next step sees
    i_t = W_I [h_t, theta_{t-1}, i_{t-1}] + b_I                   these values
    theta_t = sigma(f_t) theta_{t-1} - sigma(i_t) g_t             plain SGD where sigma(f) = 1 and sigma(i) = alpha
Outer problem, over tasks with query sets D':
    min  mean_i L(theta_S(D_i), D'_i)    over theta_0, LSTM, W_F, b_F, W_I, b_I

    symbol        code                      shape / unit
    theta         self.net, theta           the backbone's parameters, flat: [P]; theta_0 is learned
    LSTM          self.lstm                 4 numbers to `hidden`
    W_F, b_F      self.forget               `hidden` + 2 numbers to one; b_F is initialised in [4, 5]
    W_I, b_I      self.input                likewise; b_I is initialised in [-5, -4]
    h, s, f, i    State                     [P, hidden] twice, [P] twice; all 0 at the start of a task
    S             inner_steps               steps in training; `eval_steps` at test
    p             p                         of pre
    n             len(support.y)            examples of D; 1 with `divide_gradient: false`
    L             self.loss                 mean over a set's examples (Learner.meta_loss is the outer one)

A step sees the whole support set, as the official mini-batches of 5 (1 shot) and 25 (5 shots) do for 5 ways.

Differences from the paper
    - Batch norm normalises queries according to the backbone's mode, by default all queries together. The official
      learner normalises test queries with running statistics of the task's own steps.
    - The gradient of the mean loss is divided once more by n, as in the official code; the paper has no such factor
      (`divide_gradient: false`).
    - The outer gradient is clipped to norm 0.25 in the paper; here clipping is the run's (`optimizer.max_grad_norm`).
    - An outer step may take several tasks (`run.meta_batch_size`); the paper's takes one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad_and_value

from metarun.checks import require_int, require_positive
from metarun.layers.lstm_cell import LSTMCell
from metarun.learner.gradient_descent import named_pieces
from metarun.learner.learner import Backbone, Learner
from metarun.learner.prediction import Predictor
from metarun.numerics.gradient_input import preprocess
from metarun.tasks import Examples, TaskLoss


class State(NamedTuple):
    """The meta-learner's state for each coordinate: h and s `[P, hidden]`, gates before their sigmoid `[P]`."""

    h: Tensor
    s: Tensor
    f: Tensor
    i: Tensor


class MetaLSTM(Learner):
    """Learns an initialisation, and an update rule that maps the gradients of each weight to its steps.

    Args:
        backbone: makes the network, `backbone(outputs=...)`.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        hidden: units of the LSTM.
        p: gradients and losses below exp(-p) are treated as small.
        divide_gradient: divide the gradient of the mean loss by the number of support examples.
        inner_steps: S in training.
        eval_steps: steps at which the headline is measured.

    Raises:
        ValueError: a count that is not an integer of at least 0 (`hidden`: of at least 1), or p that is not above 0.
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
        require_int("algo", inner_steps=inner_steps, eval_steps=eval_steps)
        require_int("algo", minimum=1, hidden=hidden)
        require_positive("algo", p=p)
        self.inner_steps, self.eval_steps = inner_steps, eval_steps
        self.p, self.divide_gradient = p, divide_gradient
        self.net = backbone(outputs=outputs)
        self.lstm = LSTMCell(4, hidden)
        self.forget, self.input = nn.Linear(hidden + 2, 1), nn.Linear(hidden + 2, 1)
        for module in (self.lstm, self.forget, self.input):
            for parameter in module.parameters():
                nn.init.uniform_(parameter, -0.01, 0.01)
        nn.init.uniform_(self.forget.bias, 4, 5)
        nn.init.uniform_(self.input.bias, -5, -4)

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # draws nothing
        theta = torch.cat([parameter.flatten() for parameter in self.net.parameters()])
        state = self.start(theta)
        yield self._predictor(theta, support)
        for _ in range(steps):
            # At detached weights both are constants, and autograd records no graph for them.
            gradient, loss = grad_and_value(self._support_loss)(theta.detach(), support)
            gradient = gradient / len(support.y) if self.divide_gradient else gradient
            theta, state = self.update(theta, gradient, loss, state)
            yield self._predictor(theta, support)

    def start(self, theta: Tensor) -> State:
        """The state before a task's first step."""
        zeros = theta.new_zeros(len(theta), self.forget.in_features - 2)
        return State(zeros, zeros, torch.zeros_like(theta), torch.zeros_like(theta))

    def update(self, theta: Tensor, gradient: Tensor, loss: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: from weights and gradient `[P]` and the loss (0-dim) to new weights and state."""
        inputs = torch.cat([preprocess(loss, self.p).expand(len(theta), 2), preprocess(gradient, self.p)], 1)
        h, s = self.lstm(inputs, state.h, state.s)
        f = self.forget(torch.cat([h, theta.unsqueeze(1), state.f.unsqueeze(1)], 1)).squeeze(1)
        i = self.input(torch.cat([h, theta.unsqueeze(1), state.i.unsqueeze(1)], 1)).squeeze(1)
        return f.sigmoid() * theta - i.sigmoid() * gradient, State(h, s, f, i)

    def diagnostics(self) -> dict[str, Tensor]:
        """The gates of a weight of 0 in its first step, for LSTM outputs of 0.

        forget_gate: share of a weight that is kept; near 1 is gradient descent without decay.
        input_gate: the learned learning rate.
        """
        return {"forget_gate": self.forget.bias.sigmoid().mean(), "input_gate": self.input.bias.sigmoid().mean()}

    def _support_loss(self, theta: Tensor, support: Examples) -> Tensor:
        return self.loss(self._predictor(theta, support)(support.x), support.y)

    def _predictor(self, theta: Tensor, support: Examples) -> Predictor:
        shapes = {name: parameter.shape for name, parameter in self.net.named_parameters()}
        return self.functional_predictor(self.net, named_pieces(theta, shapes), support)
