"""The fully connected network: shapes, size, and the layers it is made of."""

import pytest
import torch

from metarun.backbones.mlp import MLP

PLAIN = {"hidden": [40, 40], "activation": "relu", "norm": "none", "init": "torch"}


def test_is_mamls_sinusoid_network():
    net = MLP(in_shape=(1,), outputs=1, **PLAIN)
    assert sum(p.numel() for p in net.parameters()) == 40 + 40 + 40 * 40 + 40 + 40 + 1
    x = torch.randn(7, 1)
    first, second, last = net.features.linear1, net.features.linear2, net.head
    torch.testing.assert_close(net(x), last(second(first(x).relu()).relu()))


def test_flattens_images_and_gives_features_without_a_head():
    net = MLP(in_shape=(3, 4, 4), outputs=None, **PLAIN)
    features = net(torch.randn(2, 3, 4, 4))
    assert features.shape == (2, 40) and (features >= 0).all()


@pytest.mark.parametrize("activation", ["relu", "tanh", "elu", "sigmoid"])
@pytest.mark.parametrize("norm", ["batch", "layer", "group"])
def test_activations_and_norms(activation, norm):
    net = MLP(in_shape=(2,), outputs=3, hidden=[16], activation=activation, norm=norm, init="torch")
    assert net(torch.randn(5, 2)).shape == (5, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "rely"}, "backbone.activation must be one of relu, tanh, elu, sigmoid; got 'rely'"),
        ({"norm": "bach"}, "backbone.norm must be one of batch, support, running, layer, group, none; got 'bach'"),
        ({"init": "zero"}, "backbone.init must be one of torch, truncated_normal, xavier; got 'zero'"),
        (
            {"outputs": None, "hidden": []},
            r"backbone.hidden must be of at least one layer for a learner that uses its features; got \[\]",
        ),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        MLP(**({"in_shape": (1,), "outputs": 1} | PLAIN | change))
