"""TODO."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Gaussian(NamedTuple):
    """A predictive normal distribution per target dimension; both `[n, d]`."""

    mean: Tensor
    variance: Tensor


class Samples(NamedTuple):
    """Predictions of S sampled models, `[S, n, d]` (regression) or logits `[S, n, ways]`.

    `variance`: of the noise about each model's prediction (regression), of any shape that broadcasts; None: unknown.
    """

    values: Tensor
    variance: Tensor | None = None


Prediction = Tensor | Gaussian | Samples


Predictor = Callable[[Tensor], Prediction]
