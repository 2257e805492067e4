"""ResNet-12 is learn2learn's, weight for weight, and right at second order under vmap."""

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


def test_no_norm_of_torchs_is_left():
    net = ResNet12((3, 32, 32), 5, **PLAIN)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert len(batch_norms(net)) == 16 and all(isinstance(m, BatchNorm) for m in batch_norms(net))
    assert batch_norms(ResNet12((3, 32, 32), 5, **(PLAIN | {"norm": "layer"}))) == []


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
    with pytest.raises(ValueError, match="backbone resnet12 takes images"):
        ResNet12(shape, 5, **PLAIN)


def test_drop_block_as_metaoptnet_has_it():
    """Dropout after the first two blocks, squares after the last two; weights keep their names."""
    plain, dropped = (ResNet12((3, 84, 84), None, True, "running", "torch", drop_rate=rate) for rate in (0.0, 0.1))
    assert not drop_blocks(plain) and [block.size for block in drop_blocks(dropped)] == [1, 1, 5, 5]
    assert plain.state_dict().keys() == dropped.state_dict().keys()
    x = torch.rand(2, 3, 84, 84)
    masks = draw_masks(dropped, (2,), torch.tensor(1.0), torch.Generator().manual_seed(0))
    with dropping(dropped, masks):
        once, again = dropped(x), dropped(x)
    assert torch.equal(once, again) and not torch.allclose(once, dropped(x))
    for rate, size in ((-0.1, 5), (1.0, 5), (0.1, 0)):
        with pytest.raises(ValueError, match="drop_rate"):
            ResNet12((3, 84, 84), None, True, "running", "torch", drop_rate=rate, drop_size=size)
