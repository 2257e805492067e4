"""Normal distributions over parameters, against torch's."""

import math
import re

import pytest
import torch
import toy
from torch.distributions import Normal, kl_divergence

from metarun.learner.gaussian import Variances, count_parameters, divergence, draw


def tensors(seed, positive=False):
    generator = torch.Generator().manual_seed(seed)
    normal = {name: torch.randn(shape, generator=generator).double() for name, shape in (("w", (3, 2)), ("b", (3,)))}
    return {name: t.exp() for name, t in normal.items()} if positive else normal


def test_the_divergence_is_torchs_summed():
    q, p = (tensors(0), tensors(1, True)), (tensors(2), tensors(3, True))
    expected = sum(
        kl_divergence(Normal(q[0][n], q[1][n].sqrt()), Normal(p[0][n], p[1][n].sqrt())).sum() for n in ("w", "b")
    )
    torch.testing.assert_close(divergence(*q, *p), expected, rtol=1e-12, atol=0)
    assert divergence(*q, *q) == 0
    assert abs(divergence(*p, *q) - expected) > 0.1  # not the other way round


def test_a_sample_is_the_mean_plus_noise_times_the_deviation():
    mean, variance = tensors(0), tensors(1, True)
    random_inputs = torch.randn(4, 9, generator=torch.Generator().manual_seed(2)).double()
    drawn = draw(mean, variance, random_inputs)
    flat = torch.cat([drawn["w"].flatten(1), drawn["b"]], 1)
    m, v = (torch.cat([t["w"].flatten(), t["b"]]) for t in (mean, variance))
    torch.testing.assert_close(flat, m + random_inputs * v.sqrt(), rtol=1e-12, atol=0)
    for name, value in draw(mean, variance, ()).items():
        torch.testing.assert_close(value, mean[name].unsqueeze(0), rtol=0, atol=0)


def test_variances_are_bounded_and_start_in_the_middle():
    net = toy.mlp()(outputs=1)
    variances = Variances(net, [-6.0, -2.0]).double()
    assert {n: v.shape for n, v in variances().items()} == {n: p.shape for n, p in net.named_parameters()}
    assert count_parameters(net) == sum(v.numel() for v in variances().values())
    for raw, expected in ((0.0, -4.0), (1e6, -2.0), (-1e6, -6.0)):
        for p in variances.parameters():
            torch.nn.init.constant_(p, raw)
        for v in variances().values():
            torch.testing.assert_close(v, torch.full_like(v, math.exp(expected)))
        assert variances.mean_std().item() == pytest.approx(math.exp(expected / 2))


@pytest.mark.parametrize("bad", [[1.0, 1.0], [2.0, 1.0], [1.0]])
def test_what_is_no_range_is_refused(bad):
    message = f"algo.log_variance must be a range [lowest, highest] with lowest < highest; got {bad}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Variances(toy.mlp()(outputs=1), bad)
