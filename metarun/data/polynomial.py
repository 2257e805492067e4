"""Polynomial regression: y = c_0 + c_1 x + ... + c_n x^n, new coefficients for each task.

The tasks on which Lee and Choi test whether the learned subspace of T-nets and MT-nets grows with the tasks' complexity
(2018, arXiv 1801.05558; yoonholee/MT-net poly_generator.py): tasks of order n have n + 1 degrees of freedom.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarun.checks import require_int, require_range
from metarun.data.curves import Curves, Range


class Polynomial(Curves):
    """Polynomials. The stream `oracle` has x beside the true coefficients: `[x, c_0, ..., c_n]`.

    Args:
        order: n, the highest power; 0 for constants.
        coefficients: uniform range (lowest, highest) of c_0; that of c_i is 2^i times narrower.
        x: uniform range of the points.
        shots, queries, train_queries: points of the support set and of the query set (train_queries: in training).
        device: where tasks are drawn.

    Raises:
        ValueError: an order that is not an integer of at least 0, a range that is not (lowest, highest), or a count
            below 1.
    """

    fusable_args = ("order", "coefficients", "x")  # not in the stream `oracle`, whose width is the order's

    def __init__(
        self,
        order: int,
        coefficients: Range,
        x: Range,
        shots: int,
        queries: int,
        train_queries: int,
        device: torch.device | str,
    ) -> None:
        require_int("data", order=order)
        require_range("data.coefficients", coefficients)
        low, high = coefficients
        parameters = {f"c{power}": (low / 2**power, high / 2**power) for power in range(order + 1)}
        super().__init__(parameters, x, 0.0, shots, queries, train_queries, device)

    def curve(self, parameters: Tensor, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for coefficient in reversed(parameters.unsqueeze(1).unbind(2)):  # Horner's rule, [T, 1, 1] each
            y = y * x + coefficient
        return y

    def title(self, parameters: list[float]) -> str:
        powers = ["", " x", *(f" x^{power}" for power in range(2, len(parameters)))]
        terms = [f"{value:.2f}{power}" for value, power in zip(parameters, powers, strict=False)]
        return " + ".join(terms).replace("+ -", "- ")
