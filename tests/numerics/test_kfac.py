"""Is it the curvature? Against exact blocks where Kronecker factors are exact, and loops where they are not."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, jacrev, vmap

from metarun.numerics.kfac import hessian_columns, kronecker_factors, log_determinant, opened, tap_layers

DAMPING = torch.tensor(0.01, dtype=torch.float64)


def mlp(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, outputs)).double()


def convolution():
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))
    return nn.Sequential(*layers).double()


def inputs(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).double()


def factors(net, x, classes):
    taps = tap_layers(net)
    return taps, dict(zip(taps, kronecker_factors(lambda: net(x), taps, classes), strict=True))


def exact_block(net, x, layer, classes):
    """J^T H J of the parameters of one layer, weight beside bias row by row: `[d_out (d_in + 1)] * 2`."""
    params = {f"{layer}.{name}": p.detach() for name, p in net.get_submodule(layer).named_parameters()}
    jacobian = jacrev(lambda params: functional_call(net, params, (x,)))(params)
    weight, bias = (jacobian[f"{layer}.{name}"] for name in ("weight", "bias"))
    weight = weight.reshape(*bias.shape, -1)
    both = torch.cat([weight, bias.unsqueeze(-1)], -1).flatten(2)  # [n, outputs, d_out (d_in + 1)]
    output = net(x)
    if classes:
        p = output.softmax(-1)
        hessian = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    else:
        hessian = torch.eye(output.shape[1]).double().expand(len(x), -1, -1)
    return (both.mT @ hessian @ both).mean(0)


@pytest.mark.parametrize("classes", [True, False])
def test_the_columns_are_a_root_of_the_hessian(classes):
    output = inputs(4, 3)
    s = hessian_columns(output, classes)
    y = torch.tensor([0, 2, 1, 1])

    def loss(one, y):
        return F.cross_entropy(one, y) if classes else 0.5 * (one - 1.0).square().sum()

    hessian = vmap(torch.func.hessian(loss))(output, y)
    torch.testing.assert_close(torch.einsum("cni,cnj->nij", s, s), hessian, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("classes", [True, False])
def test_of_one_example_the_factors_are_exact(classes):
    net, x = mlp(), inputs(1, 2)
    _, by_layer = factors(net, x, classes)
    for layer in ("0", "2", "4"):
        A, G = by_layer[layer]
        torch.testing.assert_close(torch.kron(G, A), exact_block(net, x, layer, classes), rtol=1e-9, atol=1e-12)


def test_of_one_position_a_convolutions_factors_are_exact():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3, 4)).double()
    x = inputs(1, 2, 3, 3)
    A, G = factors(net, x, True)[1]["0"]
    assert A.shape == (19, 19) and G.shape == (3, 3)
    torch.testing.assert_close(torch.kron(G, A), exact_block(net, x, "0", True), rtol=1e-9, atol=1e-12)


def test_of_several_examples_they_are_means_and_not_exact():
    net, x = mlp(), inputs(5, 2)
    _, by_layer = factors(net, x, True)
    single = [factors(mlp(), x[i : i + 1], True)[1] for i in range(5)]
    for layer in ("0", "2", "4"):
        for which in (0, 1):
            mean = torch.stack([one[layer][which] for one in single]).mean(0)
            torch.testing.assert_close(by_layer[layer][which], mean, rtol=1e-9, atol=1e-12)
    A, G = by_layer["2"]
    assert (torch.kron(G, A) - exact_block(net, x, "2", True)).abs().max() > 1e-4


def test_a_convolution_sums_patches_and_averages_derivatives_over_positions():
    net, x = convolution(), inputs(2, 2, 4, 4)
    A, G = factors(net, x, True)[1]["0"]
    padded = F.pad(x, (1, 1, 1, 1))
    patches = [
        torch.cat([padded[n, :, i : i + 3, j : j + 3].flatten(), torch.ones(1)])
        for n in range(2)
        for i in (0, 2)
        for j in (0, 2)
    ]
    torch.testing.assert_close(A, sum(torch.outer(a, a) for a in patches) / 2, rtol=1e-10, atol=1e-12)
    h = net[0](x).detach()
    columns = hessian_columns(net(x), True)
    expected = torch.zeros(3, 3).double()
    for n in range(2):
        slopes = jacrev(lambda h: net[3](net[2](net[1](h))).squeeze(0))(h[n : n + 1]).squeeze(1)  # [3, 3, 2, 2]
        for s in columns[:, n]:
            g = torch.einsum("o,ocij->cij", s, slopes).flatten(1)
            expected += g @ g.T / (2 * 4)
    torch.testing.assert_close(G, expected, rtol=1e-9, atol=1e-12)


class BatchNormalised(nn.Module):
    """One hidden layer, normalised with the statistics of all rows or of the first `reference`, written out."""

    def __init__(self, outputs=2, reference=None):
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.head = nn.Linear(2, 3).double(), nn.Linear(3, outputs).double()
        self.reference = reference

    def forward(self, x):
        return self.rest(self.hidden(x))

    def rest(self, h):
        rows = h[: self.reference]
        z = (h - rows.mean(0)) / (rows.var(0, correction=0) + 1e-5).sqrt()
        return self.head(z.tanh())


@pytest.mark.parametrize("reference", [None, 4])
def test_of_examples_that_batch_norm_couples_the_factors_expect_over_all_labels(reference):
    """G against the sum over every labelling of the examples, by its probability. Of `reference`: rows before them."""
    net, x = BatchNormalised(reference=reference), inputs(3 if reference is None else 7, 2)
    n, rows = 3, len(x)
    p = net(x)[-n:].softmax(1).detach()
    expected = torch.zeros(3, 3).double()
    for labels in itertools.product(range(2), repeat=n):
        h = net.hidden(x).detach().requires_grad_()
        log_p = -F.cross_entropy(net.rest(h)[-n:], torch.tensor(labels), reduction="sum")
        (g,) = torch.autograd.grad(log_p, h)
        expected += math.prod(p[i, y].item() for i, y in enumerate(labels)) * g.T @ g / rows
    taps = tap_layers(net)
    exact, joint = (
        dict(zip(taps, kronecker_factors(lambda: net(x)[-n:], taps, True, coupled), strict=True))
        for coupled in (True, False)
    )
    torch.testing.assert_close(exact["hidden"][1], expected, rtol=1e-10, atol=1e-13)
    a = torch.cat([x, torch.ones(rows, 1)], 1).double()
    torch.testing.assert_close(exact["hidden"][0], a.T @ a / rows, rtol=1e-12, atol=0)
    assert (joint["hidden"][1] - expected).abs().max() > 0.01 * expected.abs().max()


def test_of_independent_examples_a_pass_for_each_changes_nothing():
    net, x = convolution(), inputs(3, 2, 4, 4)
    taps = tap_layers(net)
    joint, exact = (log_determinant(lambda: net(x), taps, True, DAMPING, coupled) for coupled in (False, True))
    torch.testing.assert_close(joint, exact, rtol=1e-11, atol=0)


@pytest.mark.parametrize(("make", "shape"), [(mlp, (5, 2)), (convolution, (4, 2, 4, 4))])
def test_the_log_determinant_is_that_of_the_damped_kronecker_products(make, shape):
    net, x = make(), inputs(*shape)
    taps, by_layer = factors(net, x, True)
    expected = torch.zeros(()).double()
    for A, G in by_layer.values():
        damped = [m + 0.1 * torch.eye(len(m)).double() for m in (G, A)]
        expected += torch.linalg.slogdet(torch.kron(*damped)).logabsdet
    torch.testing.assert_close(log_determinant(lambda: net(x), taps, True, DAMPING), expected, rtol=1e-9, atol=0)


def test_vmap_is_a_loop_and_its_gradient_is_right():
    net, x = mlp(), inputs(3, 5, 2)
    taps = tap_layers(net)
    theta = {name: p.detach() for name, p in net.named_parameters()}

    def value(theta, x):
        return log_determinant(lambda: functional_call(net, theta, (x,)), taps, True, DAMPING)

    batched = vmap(value, (None, 0))(theta, x)
    single = torch.stack([value(theta, one) for one in x])
    torch.testing.assert_close(batched, single, rtol=1e-10, atol=0)
    gradient = vmap(torch.func.grad(value), (None, 0))(theta, x)
    direction = {name: torch.randn_like(p) for name, p in theta.items()}
    ends = [value({n: p + e * direction[n] for n, p in theta.items()}, x[1]) for e in (1e-6, -1e-6)]
    slope = sum((gradient[name][1] * direction[name]).sum() for name in theta)
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-6)


def test_taps_change_nothing_and_hold_nothing():
    net, plain, x = convolution(), convolution(), inputs(2, 2, 4, 4)
    taps = tap_layers(net)
    assert list(taps) == ["0", "3"] and list(net.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(net(x), plain(x), rtol=0, atol=0)
    log_determinant(lambda: net(x), taps, True, DAMPING)
    assert all(tap.input is tap.output is tap.added is None and not tap.open for tap in taps.values())
    with pytest.raises(RuntimeError), opened(taps):
        net(inputs(2, 5))
    assert not any(tap.open for tap in taps.values())


def test_a_copy_has_taps_of_its_own():
    net = mlp()
    both = {"net": net, "taps": tap_layers(net)}
    copied = copy.deepcopy(both)
    assert copied["taps"]["0"].layer is copied["net"][0]
    before = log_determinant(lambda: copied["net"](inputs(5, 2)), copied["taps"], True, DAMPING)
    torch.nn.init.zeros_(net[0].weight)
    after = log_determinant(lambda: copied["net"](inputs(5, 2)), copied["taps"], True, DAMPING)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
