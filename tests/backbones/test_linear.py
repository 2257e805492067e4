"""One linear layer."""

import torch

from metarun.backbones.linear import Linear


def test_is_a_matrix_product_with_nothing_else():
    net, x = Linear((10,), 1, bias=False), torch.randn(7, 10)
    assert [p.shape for p in net.parameters()] == [(1, 10)]
    torch.testing.assert_close(net(x), x @ net.head.weight.T)
    assert net(torch.zeros(2, 10)).abs().max() == 0


def test_with_a_bias_and_of_images():
    net = Linear((1, 4, 4), 3, bias=True)
    assert [p.shape for p in net.parameters()] == [(3, 16), (3,)]
    torch.testing.assert_close(net(torch.zeros(2, 1, 4, 4)), net.head.bias.expand(2, 3))


def test_without_outputs_it_is_the_flattened_input():
    x = torch.randn(2, 3, 5)
    net = Linear((3, 5), None, bias=False)
    assert torch.equal(net(x), x.flatten(1)) and not list(net.parameters())
