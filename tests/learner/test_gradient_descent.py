"""The shared inner loop, against gradient descent by hand on a linear model."""

from __future__ import annotations

import pytest
import torch
import toy
from torch import nn

from metarun.learner.gradient_descent import descend
from metarun.tasks import Examples


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


class Curve(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope, self.offset = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in ([[2.0]], [1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.slope + self.offset


def moved(rates, steps: int) -> list[tuple[float, float]]:
    """(slope, offset) after each step, read off the predictions at 0 and 1."""
    predictors = list(descend(toy.maml(), Curve(), Examples(X, Y), steps, rates))
    at = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    return [((p := predict(at))[1] - p[0], p[0]) for predict in predictors]


def test_only_parameters_with_a_rate_move():
    (slope, offset), (slope_after, offset_after) = moved({"slope": LR}, 1)
    assert offset_after == offset == 1
    assert slope_after != slope
    # d/d slope of ((2 + 1 - 0)^2 + (4 + 1 - 1)^2) / 2 = 3 * 1 + 4 * 2
    assert slope_after.item() == pytest.approx(2 - 0.1 * 11)


def test_rates_may_change_from_step_to_step():
    still = torch.zeros((), dtype=torch.float64)
    path = moved(lambda step: {"slope": still if step == 0 else LR, "offset": still}, 2)
    assert path[1] == path[0]
    assert path[2][0].item() == pytest.approx(2 - 0.1 * 11)
