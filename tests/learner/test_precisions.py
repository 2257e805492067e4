"""The joint density of data, weights and precisions, against torch's distributions."""

import math
import re

import pytest
import torch
from torch.distributions import Gamma, Normal

from metarun.learner.precisions import Precisions

SETTINGS = {"log_lambda": [1.5, 2.0, 3.0], "log_gamma": [100.0, 4.0, 0.2]}


def theta(**precisions):
    generator = torch.Generator().manual_seed(0)
    weights = {"w": torch.randn(3, 2, generator=generator).double(), "b": torch.randn(3, generator=generator).double()}
    return weights | {name: torch.tensor(value, dtype=torch.float64) for name, value in precisions.items()}


def by_hand(weights, prediction, y, **precisions):
    """log p(D, theta) with torch's normal and Gamma; a precision's density is of its logarithm."""
    gamma, lam = (precisions[name].exp() if name in precisions else None for name in ("log_gamma", "log_lambda"))
    w = torch.cat([p.flatten() for p in weights.values()])
    log_p = Normal(0, lam**-0.5).log_prob(w).sum()
    for name, (_, shape, rate) in SETTINGS.items():
        if name in precisions:
            shape, rate = torch.tensor([shape, rate], dtype=torch.float64)
            log_p = log_p + Gamma(shape, rate).log_prob(precisions[name].exp()) + precisions[name]
    if gamma is not None:
        return log_p + Normal(prediction, gamma**-0.5).log_prob(y).sum()
    return log_p + prediction.log_softmax(-1)[torch.arange(len(y)), y].sum()


@pytest.mark.parametrize("regression", [True, False])
def test_the_joint_density_is_torchs_but_for_a_constant(regression):
    names = ["log_lambda", "log_gamma"] if regression else ["log_lambda"]
    module = Precisions(4, {name: SETTINGS[name] for name in names})
    y = torch.randn(5, 2).double() if regression else torch.tensor([0, 1, 1, 0, 1])

    def difference(seed, lam, gamma):
        prediction = torch.randn(5, 2, generator=torch.Generator().manual_seed(seed)).double()
        precisions = {"log_lambda": lam, "log_gamma": gamma} if regression else {"log_lambda": lam}
        at = theta(**precisions)
        weights, split = module.split({name: p * (1 + seed) if name in "wb" else p for name, p in at.items()})
        log_joint = module.log_joint(weights | split, prediction, y)
        return log_joint - by_hand(weights, prediction, y, **split)

    constants = [difference(s, lam, gamma) for s, lam, gamma in ((0, 0.3, 1.0), (1, -1.0, 3.0), (2, 2.0, -2.0))]
    torch.testing.assert_close(constants[0].expand(2), torch.stack(constants[1:]), rtol=0, atol=1e-9)


def test_precisions_start_as_configured():
    module = Precisions(4, SETTINGS)
    for name, value in module.log.items():
        torch.testing.assert_close(value.detach(), torch.full((4,), math.log(SETTINGS[name][0])))
    assert dict(Precisions(4, {}).log) == {}


def test_splitting_takes_precisions_apart_from_weights():
    weights, precisions = Precisions(1, SETTINGS).split(theta(log_lambda=1.0, log_gamma=2.0))
    assert list(weights) == ["w", "b"] and list(precisions) == ["log_lambda", "log_gamma"]


@pytest.mark.parametrize("bad", [[1.0, 2.0], [1.0, 2.0, 0.0], [-1.0, 2.0, 2.0]])
def test_bad_numbers_are_named(bad):
    what = f"must be start, shape and rate, all above 0; got {bad}"
    for name, key in (("log_lambda", "algo.weight_precision"), ("log_gamma", "algo.noise_precision")):
        with pytest.raises(ValueError, match=f"^{re.escape(f'{key} {what}')}$"):
            Precisions(2, {name: bad})
