"""Sinusoid regression: y = A sin(f x - phi), a new amplitude, phase and frequency for each task.

`data=sinusoid` is MAML's setting (frequency 1; Finn et al. 2017, section 5.1; cbfinn/maml data_generator.py),
`data=sinusoid_varied` Meta-SGD's and MT-net's (frequency 0.8 to 1.2; yoonholee/MT-net data_generator.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarun.data.curves import Curves, Range


class Sinusoid(Curves):
    """Sinusoids. The stream `oracle` has x beside the true amplitude, phase and frequency: `[x, A, phi, f]`.

    Args:
        amplitude, phase, frequency, x: uniform ranges (lowest, highest); phase in radians.
        noise: standard deviation of the noise on y.
        shots, queries, train_queries: points of the support set and of the query set (train_queries: in training).
        device: where tasks are drawn.

    Raises:
        ValueError: a range that is not (lowest, highest), or a count below 1.
    """

    fusable_args = ("amplitude", "phase", "frequency", "x", "noise")

    def __init__(
        self,
        amplitude: Range,
        phase: Range,
        frequency: Range,
        x: Range,
        noise: float,
        shots: int,
        queries: int,
        train_queries: int,
        device: torch.device | str,
    ) -> None:
        parameters = {"amplitude": amplitude, "phase": phase, "frequency": frequency}
        super().__init__(parameters, x, noise, shots, queries, train_queries, device)

    def curve(self, parameters: Tensor, x: Tensor) -> Tensor:
        amplitude, phase, frequency = parameters.unsqueeze(1).unbind(2)  # [T, 1, 1] each
        return amplitude * torch.sin(frequency * x - phase)

    def title(self, parameters: list[float]) -> str:
        amplitude, phase, frequency = parameters
        lowest, highest = self.ranges["frequency"]
        varied = "" if lowest == highest else f", frequency {frequency:.1f}"
        return f"amplitude {amplitude:.1f}, phase {phase:.1f}{varied}"
