"""What a predictor returns: a point, a normal distribution, or samples; and whether its class is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """A predictive normal distribution of each target dimension.

    Attributes:
        mean: `[n, d]`.
        variance: `[n, d]`.
    """

    mean: Tensor
    variance: Tensor


class Samples(NamedTuple):
    """Predictions of S sampled models.

    Attributes:
        values: targets `[S, n, d]` in a regression, or logits `[S, n, ways]`.
        variance: of the targets' noise about each model's prediction, in a regression; of any shape that
            broadcasts to that of `values`. None: unknown.
    """

    values: Tensor
    variance: Tensor | None = None


Prediction = Tensor | Gaussian | Samples  # a tensor: targets `[n, d]` or logits `[n, ways]`

Predictor = Callable[[Tensor], Prediction]  # from inputs `[n, ...]`


def correctness(scores: Tensor, y: Tensor) -> Tensor:
    """Whether the class of the highest score is the right one.

    The argmax of NaN is a class, mostly 0. Scores that are not finite predict nothing.

    Args:
        scores: class scores or log-probabilities, `[..., ways]`.
        y: class indices, `[...]`.

    Returns:
        `[...]`: 1 right, 0 wrong, NaN where a score is not finite.
    """
    right = (scores.argmax(-1) == y).to(scores.dtype)
    return torch.where(scores.isfinite().all(-1), right, torch.nan)
