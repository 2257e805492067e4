"""Quadratic functions: the mean squared error of a linear network is the function."""

import pytest
import torch
import torch.nn.functional as F

from metarun.backbones.linear import Linear
from metarun.data.quadratics import Quadratics
from metarun.sampling import stream_generator


def generator(seed=0):
    return stream_generator("cpu", seed)


def test_the_loss_of_a_linear_network_is_the_function():
    task = Quadratics(10, "cpu").sample("train", "episodes", 3, generator())
    net = Linear((10,), 1, bias=False)
    theta = net.head.weight[0]
    for x, y in zip(*task.support, strict=True):
        w, b = x / 10**0.5, y[:, 0] / 10**0.5
        torch.testing.assert_close(F.mse_loss(net(x), y), (w @ theta - b).square().sum())


def test_entries_are_normal_and_independent():
    task = Quadratics(10, "cpu").sample("train", "episodes", 4000, generator())
    rows = torch.cat([task.support.x, task.support.y], -1) / 10**0.5  # W and y beside it, [T, 10, 11]
    assert rows.shape == (4000, 10, 11)
    assert rows.mean((0, 1)).abs().max() < 0.03
    torch.testing.assert_close(torch.cov(rows.flatten(0, 1).T), torch.eye(11), rtol=0, atol=0.03)
    assert abs(rows.pow(4).mean().item() - 3) < 0.1
    # at theta ~ N(0, 1) its mean is d (d + 1)
    theta = torch.randn(4000, 10, 1, generator=torch.Generator().manual_seed(1))
    assert F.mse_loss(task.support.x @ theta, task.support.y).item() == pytest.approx(110, rel=0.05)


def test_what_is_minimised_is_what_is_reported():
    task = Quadratics(4, "cpu").sample("test", "episodes", 2, generator())
    assert torch.equal(task.support.x, task.query.x) and torch.equal(task.support.y, task.query.y)
    assert task.support.x.shape == (2, 4, 4) and task.support.y.shape == (2, 4, 1)


def test_the_seed_decides_and_the_splits_differ():
    data = Quadratics(5, "cpu")
    one, same, other = (data.sample("train", "episodes", 3, generator(s)).support.x for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    val, test = (data.eval_block(split, "episodes", 0).support.x for split in ("val", "test"))
    assert not torch.equal(val, test)


def test_its_description():
    data = Quadratics(7, "cpu")
    assert data.in_shape() == (7,) and data.outputs("test") == 1
    assert data.describe() == {"ways": None, "shots": 7, "queries": 7, "partition": None}
    assert data.kind == "regression" and data.metric == "mse"


def test_bad_values_are_named():
    with pytest.raises(ValueError, match=r"data\.dimension must be an integer of at least 1; got 0"):
        Quadratics(0, "cpu")
    with pytest.raises(ValueError, match="stream must be one of episodes; got 'batches'"):
        Quadratics(2, "cpu").sample("train", "batches", 1, generator())
