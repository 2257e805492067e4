"""A Bayesian network's two precisions, of its weights and of targets about its prediction, with Gamma priors.

    log p(D, theta) = log p(D | w, gamma) + log N(w; 0, 1 / lambda) + log Gamma(gamma) + log Gamma(lambda)
    theta = (w, log gamma, log lambda); both densities are of the logarithms. Classes have no gamma.

Theta is a dict: the network's parameters by name, `log_lambda` and in a regression `log_gamma`, 0-dim for one network.

Differences from the paper: stated by the algorithms that use it; this is no algorithm of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

import torch
from torch import Tensor, nn

from metarun.learner.ensemble import Weights, log_likelihood


class Precisions(nn.Module):
    """Learned log precisions of M networks, `[M]` each.

    Args:
        count: M.
        given: `log_lambda` and perhaps `log_gamma`, each (start, shape, rate): the precision at first, and its prior.

    Raises:
        ValueError: not three numbers above 0.
    """

    def __init__(self, count: int, given: Mapping[str, Sequence[float]]) -> None:
        super().__init__()
        for name, numbers in given.items():
            if len(numbers) != 3 or not min(numbers) > 0:
                what = {"log_lambda": "weight_precision", "log_gamma": "noise_precision"}[name]
                raise ValueError(f"{what} must be start, shape and rate, all above 0; got {list(numbers)}")
        self.log = nn.ParameterDict({name: torch.full((count,), log(start)) for name, (start, *_) in given.items()})
        self.priors = {name: (shape, rate) for name, (_, shape, rate) in given.items()}

    def split(self, theta: Weights) -> tuple[Weights, Weights]:
        """Weights, and log precisions."""
        weights = {name: p for name, p in theta.items() if name not in self.priors}
        return weights, {name: theta[name] for name in self.priors}

    def log_joint(self, theta: Weights, prediction: Tensor, y: Tensor) -> Tensor:
        """log p(D, theta) of one network, 0-dim, but for a constant; `prediction` is its own of D."""
        weights, precisions = self.split(theta)
        log_lambda, log_gamma = precisions["log_lambda"], precisions.get("log_gamma", prediction.new_zeros(()))
        w = torch.cat([p.flatten() for p in weights.values()])
        log_p = log_likelihood(prediction, y, (-log_gamma).exp())
        log_p = log_p + 0.5 * (len(w) * log_lambda - log_lambda.exp() * w.square().sum())
        for name, (shape, rate) in self.priors.items():
            log_p = log_p + shape * precisions[name] - rate * precisions[name].exp()
        return log_p
