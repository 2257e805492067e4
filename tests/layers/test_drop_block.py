"""DropBlock: what is dropped, how much, and that masks are inputs."""

import pytest
import torch
from torch import nn

from metarun.layers.drop_block import RAMP, DropBlock, draw_masks, drop_blocks, dropping

FULL = torch.tensor(1.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_squares_lie_where_the_corners_are():
    block = DropBlock((1, 6, 7), 0.1, 3)
    mask = torch.zeros(1, 1, 4, 5, dtype=torch.bool)
    mask[0, 0, 0, 0] = mask[0, 0, 3, 4] = True
    with dropping(block, [mask]):
        y = block(torch.ones(1, 1, 6, 7))
    expected = torch.ones(6, 7)
    expected[:3, :3] = expected[3:, 4:] = 0
    torch.testing.assert_close(y[0, 0], expected * 42 / 24)  # what is left makes up for what is gone


@pytest.mark.parametrize("size", [1, 5])
def test_the_share_that_is_dropped_and_the_mean_that_is_kept(size):
    block = DropBlock((64, 20, 20), 0.1, size)
    with dropping(block, draw_masks(block, (32,), FULL, generator())):
        y = block(torch.ones(32, 64, 20, 20))
    assert (y == 0).float().mean() == pytest.approx(0.1, abs=0.01)  # squares overlap now and then
    assert y.mean() == pytest.approx(1, abs=0.01)


def test_squares_are_dropped_at_a_growing_rate_and_single_positions_at_the_full_rate():
    square, single = DropBlock((64, 20, 20), 0.3, 5), DropBlock((64, 20, 20), 0.3, 1)
    early, half, late = (
        square.sample((8,), torch.tensor(share * RAMP), generator()).float().mean().item() for share in (0, 0.5, 2)
    )
    assert early == 0 and half == pytest.approx(late / 2, rel=0.1) and late > 0
    assert single.sample((8,), torch.tensor(0.0), generator()).float().mean() == pytest.approx(0.3, abs=0.01)


def test_nothing_is_dropped_in_evaluation_or_without_masks():
    block, x = DropBlock((4, 6, 6), 0.5, 1), torch.rand(2, 4, 6, 6)
    masks = draw_masks(block, (2,), FULL, generator())
    assert torch.equal(block(x), x)
    with dropping(block, masks):
        assert not torch.equal(block(x), x)
        assert torch.equal(block.eval()(x), x)
    assert block.mask is None


def test_a_square_is_never_larger_than_the_map():
    block = DropBlock((4, 3, 2), 0.5, 5)
    assert block.sample((7,), FULL, generator()).shape == (7, 4, 2, 1)


def test_tasks_under_vmap_are_dropped_each_by_its_own_mask():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), DropBlock((4, 8, 8), 0.3, 3), nn.ReLU())
    x, masks = torch.rand(3, 2, 1, 8, 8), draw_masks(net, (3, 2), FULL, generator())
    assert len(masks) == len(drop_blocks(net)) == 1

    def f(x, masks):
        with dropping(net, masks):
            return net(x)

    batched = torch.func.vmap(f)(x, masks)
    for t in range(3):
        torch.testing.assert_close(batched[t], f(x[t], [mask[t] for mask in masks]))


def test_several_tasks_are_scaled_each_by_what_is_kept_of_it():
    """Written out: squares of each task's maps, and the share of them that is kept."""
    block = DropBlock((4, 8, 8), 0.3, 3)
    x, (masks,) = torch.rand(6, 4, 8, 8).double(), draw_masks(block, (6,), FULL, generator())
    with dropping(block, [masks], tasks=3):
        together = block(x)
    assert block.tasks == 1
    for task in (slice(0, 2), slice(2, 4), slice(4, 6)):
        kept = torch.ones(2, 4, 8, 8).double()
        for n, channel, row, column in masks[task].nonzero().tolist():
            kept[n, channel, row : row + 3, column : column + 3] = 0
        torch.testing.assert_close(together[task], x[task] * kept / kept.mean(), rtol=1e-12, atol=0)
