"""The inner loop shared by MAML and the baselines, against gradient descent by hand on a linear model."""

from __future__ import annotations

import pytest
import torch
import toy
from torch import nn

from metarun.algos.inner_loop import descend
from metarun.tasks.task import Examples


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([[2.0]], dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.slope


X, Y = torch.tensor([[1.0], [2.0]], dtype=torch.float64), torch.tensor([[0.0], [1.0]], dtype=torch.float64)
LR = torch.tensor(0.1, dtype=torch.float64)


def slopes(net: Line, steps: int, first_order: bool = False) -> list[torch.Tensor]:
    """The slope after each step: the prediction at x = 1."""
    predictors = descend(toy.maml(), net, Examples(X, Y), steps, LR, first_order)
    return [predict(torch.ones(1, 1, dtype=torch.float64)).squeeze() for predict in predictors]


def test_steps_are_gradient_descent():
    # L = ((w - 0)^2 + (2 w - 1)^2) / 2, dL/dw = 5 w - 2
    expected, w = [2.0], 2.0
    for _ in range(3):
        w -= 0.1 * (5 * w - 2)
        expected.append(w)
    assert [s.item() for s in slopes(Line(), 3)] == pytest.approx(expected)


@pytest.mark.parametrize(("first_order", "derivative"), [(False, 0.5**3), (True, 1.0)])
def test_the_derivative_by_the_initial_weights(first_order, derivative):
    net = Line()  # each step multiplies the distance to the minimum by 1 - 0.1 * 5
    slopes(net, 3, first_order)[-1].backward()
    assert net.slope.grad is not None and net.slope.grad.item() == pytest.approx(derivative)


def test_the_network_keeps_its_own_weights():
    net = Line()
    slopes(net, 3)
    assert net.slope.item() == 2
