"""Initialisations have the moments and bounds that they are named for."""

import copy
import math

import pytest
import torch
from torch import nn

from metarun.layers.init import initialise
from metarun.layers.norm import BatchNorm


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 64, 3), BatchNorm(64), nn.Flatten(), nn.Linear(64, 500))


def test_torch_is_each_layers_own():
    original = net()
    before = copy.deepcopy(original.state_dict())
    torch.testing.assert_close(initialise(original, "torch").state_dict(), before, rtol=0, atol=0)


def test_truncated_normal():
    conv, _, _, linear = initialise(net(), "truncated_normal")
    for layer in (conv, linear):
        assert layer.weight.abs().max() <= 0.02
        # a standard normal cut at two standard deviations has standard deviation 0.8796
        assert float(layer.weight.detach().std()) == pytest.approx(0.01 * 0.8796, rel=0.03)
        assert float(layer.weight.detach().mean()) == pytest.approx(0, abs=3e-4)
        assert (layer.bias == 0).all()


def test_xavier():
    conv, _, _, linear = initialise(net(), "xavier")
    for layer, fans in ((conv, 9 * (8 + 64)), (linear, 64 + 500)):
        bound = math.sqrt(6 / fans)
        assert layer.weight.abs().max() <= bound
        assert float(layer.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert (layer.bias == 0).all()


@pytest.mark.parametrize("init", ["truncated_normal", "xavier"])
def test_norms_do_not_change(init):
    norm = initialise(net(), init)[1]
    assert (norm.weight == 1).all() and (norm.bias == 0).all()


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match="^backbone.init must be one of torch, truncated_normal, xavier; got 'xavir'$"):
        initialise(net(), "xavir")
