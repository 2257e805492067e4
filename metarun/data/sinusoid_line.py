"""Sinusoids and lines mixed: a few noisy points do not show which of the two a task is.

The ambiguous regression of PLATIPUS (Finn, Xu, Levine 2018, section 5). Ranges and noise: github
cnguyen10/few_shot_meta_learning DataGeneratorT.py (whose lines have a noise of 0.09 = 0.3^2 by mistake) and
torchmeta's SinusoidAndLine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarun.checks import is_number, require
from metarun.data.curves import Curves, Range


class SinusoidLine(Curves):
    """A task is a line, y = slope x + intercept, or a sinusoid, y = A sin(x - phi).

    The stream `oracle` has `[u, A, phi, slope, intercept]` beside x, with u < `lines` for a line.

    Args:
        lines: share of tasks that are lines.
        amplitude, phase, slope, intercept, x: uniform ranges (lowest, highest); phase in radians.
        noise: standard deviation of the noise on y, in support and query sets.
        shots, queries, train_queries: points of the support set and of the query set (train_queries: in training).
        device: where tasks are drawn.

    Raises:
        ValueError: a share outside [0, 1], a range that is not (lowest, highest), or a count below 1.
    """

    fusable_args = ("lines", "amplitude", "phase", "slope", "intercept", "x", "noise")

    def __init__(
        self,
        lines: float,
        amplitude: Range,
        phase: Range,
        slope: Range,
        intercept: Range,
        x: Range,
        noise: float,
        shots: int,
        queries: int,
        train_queries: int,
        device: torch.device | str,
    ) -> None:
        require("data.lines", lines, is_number(lines) and 0 <= lines <= 1, "a share from 0 to 1")
        self.lines = lines
        parameters = {
            "kind": (0.0, 1.0),
            "amplitude": amplitude,
            "phase": phase,
            "slope": slope,
            "intercept": intercept,
        }
        super().__init__(parameters, x, noise, shots, queries, train_queries, device)

    def curve(self, parameters: Tensor, x: Tensor) -> Tensor:
        kind, amplitude, phase, slope, intercept = parameters.unsqueeze(1).unbind(2)  # [T, 1, 1] each
        return torch.where(kind < self.lines, slope * x + intercept, amplitude * torch.sin(x - phase))

    def title(self, parameters: list[float]) -> str:
        kind, amplitude, phase, slope, intercept = parameters
        if kind < self.lines:
            return f"slope {slope:.1f}, intercept {intercept:.1f}"
        return f"amplitude {amplitude:.1f}, phase {phase:.1f}"
