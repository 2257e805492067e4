"""The two precisions of a Bayesian network, of its weights and of the targets' noise, with Gamma priors.

    log p(D, theta) = log p(D | w, gamma) + log N(w; 0, 1 / lambda) + log Gamma(gamma) + log Gamma(lambda)
    theta = (w, log gamma, log lambda); both densities are of the logarithms. Classes have no gamma.

Theta is a dict: the network's parameters by name, `log_lambda`, and in a regression `log_gamma`, 0-dim for one network.

Differences from the paper: stated by the algorithms that use it; this is not an algorithm of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

import torch
from torch import Tensor, nn

from metarun.checks import is_number, require
from metarun.learner.ensemble import Weights, log_likelihood

KEYS = {"log_lambda": "algo.weight_precision", "log_gamma": "algo.noise_precision"}


class Precisions(nn.Module):
    """Learned log precisions of M networks, `[M]` each.

    Args:
        count: M.
        settings: of `log_lambda`, and in a regression of `log_gamma`, each (start, shape, rate): the initial precision,
            and the parameters of its Gamma prior.

    Raises:
        ValueError: a setting is not three numbers above 0.
    """

    def __init__(self, count: int, settings: Mapping[str, Sequence[float]]) -> None:
        super().__init__()
        for name, values in settings.items():
            holds = len(values) == 3 and all(is_number(value) and value > 0 for value in values)
            require(KEYS[name], list(values), holds, "start, shape and rate, all above 0")
        self.log = nn.ParameterDict({name: torch.full((count,), log(start)) for name, (start, *_) in settings.items()})
        self.priors = {name: (shape, rate) for name, (_, shape, rate) in settings.items()}

    def split(self, theta: Weights) -> tuple[Weights, Weights]:
        """Split theta into weights and log precisions."""
        weights = {name: p for name, p in theta.items() if name not in self.priors}
        return weights, {name: theta[name] for name in self.priors}

    def log_joint(self, theta: Weights, prediction: Tensor, y: Tensor) -> Tensor:
        """log p(D, theta) of one network up to a constant, 0-dim; `prediction` is that network's prediction of D."""
        weights, precisions = self.split(theta)
        log_lambda, log_gamma = precisions["log_lambda"], precisions.get("log_gamma", prediction.new_zeros(()))
        w = torch.cat([p.flatten() for p in weights.values()])
        log_p = log_likelihood(prediction, y, (-log_gamma).exp())
        log_p = log_p + 0.5 * (len(w) * log_lambda - log_lambda.exp() * w.square().sum())
        for name, (shape, rate) in self.priors.items():
            log_p = log_p + shape * precisions[name] - rate * precisions[name].exp()
        return log_p
