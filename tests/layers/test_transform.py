"""A square map after each layer: where it is applied, and that it is initially the identity."""

import pytest
import torch
from torch import nn

from metarun.layers.transform import Transformed, transform_layers, transformed


def net():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    )


def test_every_linear_and_convolution_layer_gets_one_wherever_it_is():
    changed = transform_layers(net(), True)
    assert [name for name, _ in transformed(changed)] == ["0", "3.1"]
    assert isinstance(changed[1], nn.GroupNorm)


def test_the_function_stays_the_same():
    plain = net()
    x = torch.rand(5, 1, 4, 4)
    expected = plain(x)
    torch.testing.assert_close(transform_layers(plain, True)(x), expected)


def test_it_is_applied_after_the_bias_and_before_the_norm():
    torch.manual_seed(0)
    layer = Transformed(nn.Linear(2, 3), True)
    layer.transform.data = torch.randn(3, 3)
    x = torch.randn(4, 2)
    torch.testing.assert_close(layer(x), (x @ layer.layer.weight.T + layer.layer.bias) @ layer.transform.T)


def test_without_one_the_other_names_are_the_same():
    with_one, without = (transform_layers(net(), flag).state_dict() for flag in (True, False))
    assert set(with_one) - set(without) == {"0.transform", "3.1.transform"}


def test_refuses_a_network_without_layers():
    message = "^backbone must have linear or convolution layers to put a transform after; got none$"
    with pytest.raises(ValueError, match=message):
        transform_layers(nn.Sequential(nn.ReLU()), True)
