"""Both branches of the log-and-sign preprocessing, where they meet, and what happens at zero."""

import math

import pytest
import torch

from metarun.numerics.gradient_input import preprocess


def test_a_large_gradient_is_its_logarithm_and_its_sign():
    g = torch.tensor([1.0, -1.0, math.e**2, -(math.e**-3), 1e6], dtype=torch.float64)
    expected = [[0, 1], [0, -1], [0.2, 1], [-0.3, -1], [math.log(1e6) / 10, 1]]
    torch.testing.assert_close(preprocess(g, 10.0), torch.tensor(expected, dtype=torch.float64))


def test_a_small_gradient_is_scaled():
    g = torch.tensor([0.0, 1e-5, -2e-5, 1e-30], dtype=torch.float64)
    expected = [[-1, 0], [-1, math.e**10 * 1e-5], [-1, -2 * math.e**10 * 1e-5], [-1, math.e**10 * 1e-30]]
    torch.testing.assert_close(preprocess(g, 10.0), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("p", [7.0, 10.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_branches_meet(p, sign):
    g = sign * torch.tensor([math.exp(-p) * (1 + 1e-9), math.exp(-p) * (1 - 1e-9)], dtype=torch.float64)
    above, below = preprocess(g, p)
    torch.testing.assert_close(above, below, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(above, torch.tensor([-1.0, sign], dtype=torch.float64), rtol=1e-8, atol=1e-8)


def test_p_sets_the_threshold():
    g = torch.tensor(math.exp(-8), dtype=torch.float64)
    torch.testing.assert_close(preprocess(g, 10.0), torch.tensor([-0.8, 1.0], dtype=torch.float64))
    torch.testing.assert_close(preprocess(g, 7.0), torch.tensor([-1.0, math.exp(-1)], dtype=torch.float64))


def test_any_shape_and_dtype():
    for dtype in (torch.float32, torch.float64):
        out = preprocess(torch.randn(3, 4, 5, dtype=dtype), 10.0)
        assert out.shape == (3, 4, 5, 2)
        assert out.dtype == dtype
    assert preprocess(torch.tensor(0.5), 10.0).shape == (2,)


def test_it_runs_under_vmap_and_each_coordinate_is_alone():
    g = torch.randn(6, 4, dtype=torch.float64) * 10.0 ** torch.arange(-8, -2, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(torch.func.vmap(lambda row: preprocess(row, 10.0))(g), preprocess(g, 10.0))
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(preprocess(g[:, order], 10.0), preprocess(g, 10.0)[:, order])


def test_derivatives_are_finite_at_zero():
    g = torch.tensor([0.0, 1e-6, 0.5], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(preprocess(g, 10.0).sum(), g)
    torch.testing.assert_close(slope, torch.tensor([math.e**10, math.e**10, 0.2], dtype=torch.float64))
