"""Scaling and shifting: initially no change; then W o Phi_1 and b + Phi_2; the network gets no gradient."""

import pytest
import torch
import torch.nn.functional as F
import toy
from torch import nn
from torch.func import functional_call

from metarun.backbones.resnet12 import ResNet12
from metarun.layers.norm import BatchNorm
from metarun.layers.scale_shift import ScaleShift, statistics_kept


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(net, seed=1):
    """Scales and shifts with other values than their initial ones."""
    part = ScaleShift(net).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in part.parameters():
            p.add_(torch.randn(p.shape, generator=generator).double())
    return part


@pytest.mark.parametrize("make", [
    lambda: toy.conv4((2, 16, 16))(outputs=None), lambda: toy.mlp((6,))(outputs=None),
    lambda: ResNet12((3, 16, 16), None, False, "running", "torch"),
], ids=["conv4", "mlp", "resnet12"])  # fmt: skip
def test_initially_it_changes_nothing(make):
    net = make().double()
    changed = ScaleShift(net).double()(net)
    assert changed.keys() == dict(net.named_parameters()).keys()
    assert all(torch.equal(changed[name], p) for name, p in net.named_parameters())


def test_a_convolution_has_a_scale_for_each_kernel_and_a_shift_for_each_bias():
    net = toy.conv4((2, 16, 16), blocks=2)(outputs=None)
    part = ScaleShift(net)
    assert [tuple(s.shape) for s in part.scales] == [(8, 2, 1, 1), (8, 8, 1, 1)]
    assert [tuple(s.shape) for s in part.shifts] == [(8,), (8,)]
    layers = ScaleShift(toy.mlp((6,), hidden=[4])(outputs=None))
    assert [tuple(s.shape) for s in (*layers.scales, *layers.shifts)] == [(4, 1), (4,)]  # for each unit
    resnet = ResNet12((3, 16, 16), None, False, "running", "torch")
    convolutions = [m for m in resnet.modules() if isinstance(m, nn.Conv2d)]
    part = ScaleShift(resnet)
    assert len(part.scales) == len(convolutions) == 16
    assert len(part.shifts) == 0 and set(part.moved()) == {"scale"}  # they have no biases


def test_each_kernel_is_scaled_and_each_bias_shifted():
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1)).double()
    part, x = drawn(net), images(4, 2, 5, 5)
    (scale,), (shift,) = part.scales, part.shifts
    expected = torch.zeros(4, 3, 5, 5, dtype=torch.float64)
    for o in range(3):
        for i in range(2):
            kernel = net[0].weight[o, i] * scale[o, i, 0, 0]
            expected[:, o] += F.conv2d(x[:, i : i + 1], kernel[None, None], padding=1)[:, 0]
        expected[:, o] += net[0].bias[o] + shift[o]
    torch.testing.assert_close(functional_call(net, part(net), (x,)), expected, rtol=1e-10, atol=1e-12)


def test_without_biases_scaled_kernels_are_scaled_maps_and_with_them_they_are_not():
    for bias in (False, True):
        net = nn.Sequential(nn.Conv2d(2, 3, 3, bias=bias)).double()
        part, x = ScaleShift(net).double(), images(4, 2, 5, 5)
        factor = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
        with torch.no_grad():
            part.scales[0].copy_(factor.view(3, 1, 1, 1).expand(3, 2, 1, 1))
        error = (functional_call(net, part(net), (x,)) - factor.view(3, 1, 1) * net(x)).abs().max()
        assert (error > 1e-2) if bias else (error < 1e-12)


def test_scales_get_the_gradient_and_the_network_gets_none():
    net = toy.conv4((2, 16, 16), blocks=2, norm="running")(outputs=None).double()
    part = drawn(net)
    functional_call(net, part(net), (images(3, 2, 16, 16),)).square().sum().backward()
    assert all(p.grad is None for p in net.parameters())
    assert all(p.grad.abs().max() > 0 for p in part.scales)


def test_how_far_they_have_moved():
    part = ScaleShift(toy.mlp((6,), hidden=[2, 3])(outputs=None))
    assert part.moved() == {"scale": 0, "shift": 0}
    with torch.no_grad():
        part.scales[0][:, 0] = torch.tensor([0.0, 3.0])
        part.shifts[1][:] = torch.tensor([0.0, -1.0, 4.0])
    assert {name: v.item() for name, v in part.moved().items()} == pytest.approx({"scale": 3 / 5, "shift": 1.0})


def test_a_network_without_layers_is_refused():
    message = "^backbone must have convolutions or linear layers to scale and shift; got none$"
    with pytest.raises(ValueError, match=message):
        ScaleShift(nn.ReLU())


def test_kept_statistics_are_the_running_ones_also_in_training():
    norms = nn.Sequential(BatchNorm(3, "running"), BatchNorm(3, "batch")).double().train()
    with torch.no_grad():
        norms[0].running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    x = images(6, 3)
    before = {name: value.clone() for name, value in norms.state_dict().items()}
    with statistics_kept(norms):
        inside = norms[0](x)
        by_batch = norms[1](x)
    torch.testing.assert_close(inside, (x - norms[0].running_mean) / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(by_batch.mean(0), torch.zeros(3, dtype=torch.float64))  # mode batch has none
    assert not torch.allclose(norms[0](x), inside)
    assert all(torch.equal(value, before[name]) for name, value in norms.state_dict().items())
    with pytest.raises(ZeroDivisionError), statistics_kept(norms):
        raise ZeroDivisionError
    assert all(norm.training for norm in norms)
    norms.eval()
    with statistics_kept(norms):
        pass
    assert not any(norm.training for norm in norms)
