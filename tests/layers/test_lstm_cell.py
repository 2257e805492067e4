"""The cell is torch's, and runs under vmap."""

import torch
from torch import nn

from metarun.layers.lstm_cell import LSTMCell


def pair():
    ours, theirs = LSTMCell(5, 7).double(), nn.LSTMCell(5, 7).double()
    with torch.no_grad():
        theirs.weight_ih.copy_(ours.weight_ih)
        theirs.weight_hh.copy_(ours.weight_hh)
        theirs.bias_ih.copy_(ours.bias)
        theirs.bias_hh.zero_()
    return ours, theirs


def test_it_is_torchs_cell():
    ours, theirs = pair()
    x, h, c = (torch.randn(4, n, dtype=torch.float64) for n in (5, 7, 7))
    for mine, other in zip(ours(x, h, c), theirs(x, (h, c)), strict=True):
        torch.testing.assert_close(mine, other)


def test_it_runs_under_vmap_with_a_gradient():
    ours, _ = pair()
    x, h, c = (torch.randn(3, 4, n, dtype=torch.float64) for n in (5, 7, 7))
    batched = torch.func.vmap(ours)(x, h, c)
    for t in range(3):
        for whole, single in zip(batched, ours(x[t], h[t], c[t]), strict=True):
            torch.testing.assert_close(whole[t], single)
    batched[0].sum().backward()
    assert all(p.grad.abs().max() > 0 for p in ours.parameters())


def test_the_context_may_be_wider_than_the_output():
    h, c = LSTMCell(5, 7, 14)(torch.randn(2, 5), torch.randn(2, 14), torch.randn(2, 7))
    assert h.shape == c.shape == (2, 7)
