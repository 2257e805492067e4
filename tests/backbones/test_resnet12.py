"""ResNet-12 equals learn2learn's with the same weights, and is correct at second order under vmap."""

import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metarun.algos.maml import MAML
from metarun.backbones.resnet12 import ResNet12
from metarun.layers.drop_block import draw_masks, drop_blocks, dropping
from metarun.layers.norm import BatchNorm, batch_norms
from metarun.tasks import Examples, Task

PLAIN = {"wider": False, "norm": "batch", "init": "torch"}


@pytest.mark.parametrize("wider", [False, True])
def test_is_learn2learns_network(wider):
    from learn2learn.vision.models.resnet12 import ResNet12Backbone

    torch.manual_seed(0)
    ours = ResNet12((3, 84, 84), None, wider=wider, norm="batch", init="torch")
    theirs = ResNet12Backbone(wider=wider, dropblock_dropout=0.0)
    kept = {name: value for name, value in theirs.state_dict().items() if name.endswith(("weight", "bias"))}
    ours.blocks.load_state_dict({f"{int(name[5]) - 1}{name[6:]}": value for name, value in kept.items()})
    x = torch.rand(2, 3, 84, 84)
    features = ours(x)
    assert features.shape == (2, 640 if wider else 512)
    torch.testing.assert_close(features, theirs(x), rtol=1e-3, atol=1e-3)


def test_no_batch_norm_of_torch_is_left():
    net = ResNet12((3, 32, 32), 5, **PLAIN)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert len(batch_norms(net)) == 16 and all(isinstance(m, BatchNorm) for m in batch_norms(net))
    assert batch_norms(ResNet12((3, 32, 32), 5, **(PLAIN | {"norm": "layer"}))) == []


@pytest.mark.slow
def test_second_order_under_vmap_is_that_of_a_loop():
    torch.manual_seed(0)
    backbone = partial(ResNet12, in_shape=(1, 16, 16), **PLAIN)
    learner = MAML(backbone, 2, F.cross_entropy, 0.1, 1, 1, False).double()
    x, y = torch.rand(2, 4, 1, 16, 16, dtype=torch.float64), torch.arange(4).remainder(2).expand(2, 4)
    batch = Task(Examples(x, y), Examples(x.flip(1), y.flip(1)))
    results = []
    for vectorized in (True, False):
        learner.vectorized = vectorized
        learner.zero_grad()
        losses = learner(batch)
        losses.sum().backward()
        results.append((losses.detach(), [p.grad for p in learner.parameters()]))
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", [(1,), (3, 8, 8)])
def test_refuses_what_is_no_image_or_too_small(shape):
    what = f"another for inputs of shape {shape}: resnet12 takes images (C, H, W) of at least 16x16"
    with pytest.raises(ValueError, match=f"^{re.escape(f'backbone must be {what}; got ')}'resnet12'$"):
        ResNet12(shape, 5, **PLAIN)


def test_drop_block_is_metaoptnets():
    """Dropout after the first two blocks, squares after the last two; weights keep their names."""
    plain, dropped = (ResNet12((3, 84, 84), None, True, "running", "torch", drop_rate=rate) for rate in (0.0, 0.1))
    assert not drop_blocks(plain) and [block.size for block in drop_blocks(dropped)] == [1, 1, 5, 5]
    assert plain.state_dict().keys() == dropped.state_dict().keys()
    x = torch.rand(2, 3, 84, 84)
    masks = draw_masks(dropped, (2,), torch.tensor(1.0), torch.Generator().manual_seed(0))
    with dropping(dropped, masks):
        once, again = dropped(x), dropped(x)
    assert torch.equal(once, again) and not torch.allclose(once, dropped(x))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"drop_rate": -0.1}, r"backbone.drop_rate must be in \[0, 1\); got -0.1"),
        ({"drop_rate": 1.0}, r"backbone.drop_rate must be in \[0, 1\); got 1.0"),
        ({"drop_rate": 0.1, "drop_size": 0}, "backbone.drop_size must be an integer of at least 1; got 0"),
    ],
)
def test_refuses_a_bad_rate_or_size(bad, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ResNet12((3, 84, 84), None, True, "running", "torch", **bad)
