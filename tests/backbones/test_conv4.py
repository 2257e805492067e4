"""The convolutional network is learn2learn's, weight for weight."""

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


@pytest.mark.parametrize(
    ("shape", "change", "message"),
    [
        ((1, 28, 28), {"downsample": "pool"}, "downsample must be stride or max_pool; got 'pool'"),
        ((1, 28, 28), {"features": "max"}, "backbone.features must be mean or flatten; got 'max'"),
        ((1, 28, 28), {"downsample": "max_pool", "blocks": 5}, "blocks=5 leaves nothing of images of 28x28"),
        ((1,), {}, "takes images .* the data has inputs of shape \\(1,\\)"),
    ],
)
def test_refuses(shape, change, message):
    with pytest.raises(ValueError, match=message):
        Conv4(shape, 5, **(OMNIGLOT | change))
