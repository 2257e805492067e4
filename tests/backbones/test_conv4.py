"""The convolutional network equals learn2learn's with the same weights."""

import re

import pytest
import torch

from metarun.backbones.conv4 import Conv4

OMNIGLOT = {"filters": 64, "blocks": 4, "downsample": "stride", "features": "mean"}
OMNIGLOT |= {"norm": "batch", "init": "torch"}
MINI = OMNIGLOT | {"filters": 32, "downsample": "max_pool", "features": "flatten"}


def copy_by_order(source, target):
    """Same layers in the same order: convolution, norm (weight and bias each), ..., linear."""
    ours, theirs = dict(source.named_parameters()), dict(target.named_parameters())
    conv = [name for name in theirs if ".conv." in name]
    norm = [name for name in theirs if ".normalize." in name]
    pairs = zip([n for n in ours if "conv" in n], conv, strict=True)
    pairs = [*pairs, *zip([n for n in ours if "norm" in n], norm, strict=True)]
    pairs += [("head.weight", "classifier.weight"), ("head.bias", "classifier.bias")]
    assert len(pairs) == len(ours) == len(theirs)
    with torch.no_grad():
        for a, b in pairs:
            theirs[b].copy_(ours[a])


@pytest.mark.parametrize("which", ["omniglot", "mini"])
def test_is_learn2learns_network(which):
    from learn2learn.vision.models import CNN4, OmniglotCNN

    torch.manual_seed(0)
    if which == "omniglot":
        shape, ours, theirs = (1, 28, 28), Conv4((1, 28, 28), 5, **OMNIGLOT), OmniglotCNN(5)
    else:
        shape, ours, theirs = (3, 84, 84), Conv4((3, 84, 84), 5, **MINI), CNN4(5, hidden_size=32)
    copy_by_order(ours, theirs)
    x = torch.rand(4, *shape)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("downsample", ["stride", "max_pool"])
@pytest.mark.parametrize("features", ["mean", "flatten"])
@pytest.mark.parametrize("size", [(28, 28), (84, 84), (17, 33)])
def test_any_size_and_features_without_a_head(downsample, features, size):
    kinds = {"downsample": downsample, "features": features, "filters": 8}
    x = torch.rand(2, 3, *size)
    head = Conv4((3, *size), 5, **(OMNIGLOT | kinds))
    body = Conv4((3, *size), None, **(OMNIGLOT | kinds))
    assert head(x).shape == (2, 5)
    assert body(x).shape == (2, head.head.in_features)


@pytest.mark.parametrize("downsample", ["stride", "max_pool"])
@pytest.mark.parametrize(("pools", "side"), [(0, 28), (1, 14), (2, 7), (None, {"stride": 2, "max_pool": 1})])
def test_maps_are_halved_by_the_leading_blocks(downsample, pools, side):
    side = side[downsample] if pools is None else side
    kinds = {"downsample": downsample, "features": "map", "filters": 8, "pools": pools}
    net = Conv4((1, 28, 28), None, **(OMNIGLOT | kinds))
    assert net(torch.rand(2, 1, 28, 28)).shape == (2, 8, side, side)
    assert net.out_shape == (8, side, side)
    halving = {"stride": lambda layer: getattr(layer, "stride", 1) == (2, 2), "max_pool": is_pool}[downsample]
    blocks = [int(name[-1]) for name, layer in net.blocks.named_children() if halving(layer)]
    assert blocks == list(range(1, (4 if pools is None else pools) + 1))


@pytest.mark.parametrize(("features", "width"), [("mean", 8), ("flatten", 8 * 7 * 7)])
def test_out_shape_is_that_of_the_features(features, width):
    net = Conv4((1, 28, 28), None, **(OMNIGLOT | {"features": features, "filters": 8, "pools": 2}))
    assert net(torch.rand(2, 1, 28, 28)).shape == (2, *net.out_shape) == (2, width)


def is_pool(layer):
    return isinstance(layer, torch.nn.MaxPool2d)


@pytest.mark.parametrize(
    ("shape", "change", "message"),
    [
        ((1, 28, 28), {"downsample": "pool"}, "backbone.downsample must be one of stride, max_pool; got 'pool'"),
        ((1, 28, 28), {"features": "max"}, "backbone.features must be one of mean, flatten, map; got 'max'"),
        (
            (1, 28, 28),
            {"downsample": "max_pool", "blocks": 5},
            "backbone.blocks must be small enough to leave a position of images of 28x28; got 5",
        ),
        ((1, 28, 28), {"pools": 5}, "backbone.pools must be null or an integer from 0 to backbone.blocks=4; got 5"),
        ((1, 28, 28), {"pools": 1.5}, "backbone.pools must be null or an integer from 0 to backbone.blocks=4; got 1.5"),
        (
            (1, 28, 28),
            {"features": "map"},
            "backbone.features must be mean or flatten for a learner that does not compare feature maps; got 'map'",
        ),
        (
            (1,),
            {},
            "backbone must be mlp, linear or pixels for inputs of shape (1,), which are not images (C, H, W); "
            "got 'conv4'",
        ),
    ],
)
def test_refuses(shape, change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Conv4(shape, 5, **(OMNIGLOT | change))


def test_the_last_layers_deviation_can_be_said():
    """As in MAML's Omniglot network: the last layer N(0, 1), all else as `init` says."""
    plain, wide = [], []
    for nets, extra in ((plain, {}), (wide, {"head_std": 1.0})):
        torch.manual_seed(0)
        nets.append(Conv4((1, 28, 28), 20, **(OMNIGLOT | {"init": "xavier"} | extra)))
    assert float(wide[0].head.weight.std()) == pytest.approx(1, abs=0.1)
    assert (wide[0].head.bias == 0).all()
    others = [dict(net.named_parameters()) for net in (plain[0], wide[0])]
    assert all(torch.equal(p, others[1][n]) for n, p in others[0].items() if n != "head.weight")
    Conv4((1, 28, 28), None, **(OMNIGLOT | {"head_std": 1.0}))  # without a last layer it has no meaning
    with pytest.raises(ValueError, match="^backbone.head_std must be above 0; got 0$"):
        Conv4((1, 28, 28), 5, **(OMNIGLOT | {"head_std": 0}))
