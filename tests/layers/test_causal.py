"""Causal layers: against torch's convolution and attention written out, and what each item may see."""

import math

import pytest
import torch
import torch.nn.functional as F

from metarun.layers.causal import CausalAttention, DenseBlock, TemporalConvolution, earlier, seen

C = 3


def items(n, seed=0):
    return torch.randn(n, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(kind, seed=0):
    torch.manual_seed(seed)
    made = {
        "dense": lambda: DenseBlock(C, 4, 2),
        "convolutions": lambda: TemporalConvolution(C, 4, 3),
        "attention": lambda: CausalAttention(C, 5, 4),
    }
    return made[kind]().double()


KINDS = ("dense", "convolutions", "attention")


def by_conv1d(block, x):
    """A dense block as a convolution of torch's, over one sequence x `[t, channels]`."""
    channels = x.shape[1]
    weight = block.convolution.weight.unflatten(1, (2, channels)).mT  # [out, channels, (earlier, now)]
    padded = F.pad(x.T[None], (block.dilation, 0))
    out = F.conv1d(padded, weight, block.convolution.bias, dilation=block.dilation)[0].T
    value, gate = out.chunk(2, 1)
    return torch.cat([x, torch.tanh(value) * torch.sigmoid(gate)], 1)


@pytest.mark.parametrize("dilation", [1, 2, 4, 9])
def test_a_dense_block_is_a_causal_convolution(dilation):
    x = items(7)
    block = DenseBlock(C, 4, dilation).double()
    torch.testing.assert_close(block(x, 6), by_conv1d(block, x), rtol=1e-12, atol=1e-12)


def test_dilations_double_and_each_block_sees_the_ones_before():
    blocks, x = layer("convolutions"), items(7)
    assert [block.dilation for block in blocks] == [1, 2, 4]
    expected = x
    for block in blocks:
        expected = by_conv1d(block, expected)
    torch.testing.assert_close(blocks(x, 6), expected, rtol=1e-12, atol=1e-12)
    assert expected.shape == (7, C + 3 * 4)


def test_three_convolutions_reach_back_seven_items_and_no_further():
    x = items(10).requires_grad_()
    layer("convolutions")(x, 9)[-1].sum().backward()
    assert (x.grad.abs().amax(1) > 0).tolist() == [False] * 2 + [True] * 8


def test_attention_is_a_softmax_over_the_items_so_far():
    ours, x = layer("attention").requires_grad_(False), items(6)
    out = ours(x, 5)
    for t in range(6):
        q = ours.queries(x[t])
        scores = [math.exp(float(q @ ours.keys(x[j])) / math.sqrt(5)) for j in range(t + 1)]
        expected = sum(s * ours.values(x[j]) for j, s in enumerate(scores)) / sum(scores)
        torch.testing.assert_close(out[t], torch.cat([x[t], expected]), rtol=1e-10, atol=1e-12)


def test_attention_sums_to_one_and_the_future_has_none():
    a = layer("attention").attention(items(8), 5)  # 5 items, 3 ends
    torch.testing.assert_close(a.sum(1), torch.ones(8, dtype=torch.float64))
    assert (a.sum(0) - 1).abs().max() > 0.1
    assert (a.triu(1) == 0).all()
    assert (a[:5, :5].tril() > 0).sum() == 15
    assert (a[5:, :5] > 0).all()
    ends = a[5:, 5:]
    assert (ends.diagonal() > 0).all() and (ends - ends.diagonal().diag() == 0).all()


def test_seen_and_earlier():
    assert seen(2, 4, torch.device("cpu")).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    x = torch.tensor([[1.0], [2.0], [3.0], [8.0], [9.0]])  # three items, two ends
    for distance, expected in ((1, [0, 1, 2, 3, 3]), (2, [0, 0, 1, 2, 2]), (3, [0, 0, 0, 1, 1]), (4, [0] * 5)):
        assert earlier(x, 3, distance).flatten().tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_no_item_changes_one_before_it_and_no_end_another(kind):
    ours, x, n = layer(kind), items(8), 5
    out = ours(x, n)
    for t in range(8):
        other = x.clone()
        other[t] += 1
        changed = (ours(other, n) - out).abs().amax(1) > 0
        allowed = [i == t or t < min(i, n) for i in range(8)]
        if kind == "dense":  # it sees one earlier item only
            allowed = [i == t or (may and t == min(i, n) - 2) for i, may in enumerate(allowed)]
        assert changed.tolist() == allowed


@pytest.mark.parametrize("kind", KINDS)
def test_many_ends_are_each_the_end_of_a_sequence_of_its_own(kind):
    ours, x = layer(kind), items(8)
    batched = ours(x, 5)
    for end in range(5, 8):
        single = ours(torch.cat([x[:5], x[end : end + 1]]), 5)
        torch.testing.assert_close(batched[end], single[-1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(batched[:5], single[:5], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_is_a_loop_and_the_gradient_is_right(kind):
    ours, x = layer(kind), torch.stack([items(6, s) for s in range(3)]).requires_grad_()
    batched = torch.func.vmap(lambda one: ours(one, 4))(x)
    torch.testing.assert_close(batched, torch.stack([ours(one, 4) for one in x]), rtol=1e-12, atol=1e-12)
    batched.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in ours.parameters())
    assert torch.autograd.gradcheck(lambda one: ours(one, 4), (items(6).requires_grad_(),))
