"""Is it Stein variational gradient descent? Against its sum written out, and a normal distribution it must find."""

import math

import pytest
import torch

from metarun.numerics.svgd import bandwidth, direction, squared_distances


def particles(count, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (2, 3), "b": (4,), "c": ()}
    return {n: scale * torch.randn(count, *shape, generator=generator).double() for n, shape in shapes.items()}


def flat(tree):
    return torch.cat([leaf.reshape(len(leaf), -1) for leaf in tree.values()], 1)


def median_distance(theta):
    rows = flat(theta)
    between = sorted(float((a - b).norm()) for i, a in enumerate(rows) for b in rows[:i])
    return (between[(len(between) - 1) // 2] + between[len(between) // 2]) / 2


@pytest.mark.parametrize("count", [2, 3, 4, 5])  # 1, 3, 6 and 10 pairs
def test_the_bandwidth_is_the_squared_median_distance_over_log_m(count):
    theta = particles(count)
    h = bandwidth(squared_distances(theta))
    assert float(h) == pytest.approx(median_distance(theta) ** 2 / math.log(count), rel=1e-12)


def test_the_bandwidth_is_a_constant():
    theta = {name: p.requires_grad_() for name, p in particles(4).items()}
    assert not bandwidth(squared_distances(theta)).requires_grad


@pytest.mark.parametrize("count", [2, 4, 5])
def test_the_direction_is_the_sum_of_attraction_and_repulsion(count):
    theta, gradients = particles(count), particles(count, seed=1)
    rows, g = flat(theta), flat(gradients)
    h = median_distance(theta) ** 2 / math.log(count)
    expected = torch.zeros_like(rows)
    for m in range(count):
        for k in range(count):
            other = rows[k].clone().requires_grad_()
            kernel = (-(other - rows[m]).square().sum() / h).exp()
            (slope,) = torch.autograd.grad(kernel, other)
            expected[m] += (kernel.detach() * g[k] + slope) / count
    moves = direction(theta, gradients)
    assert {name: p.shape for name, p in moves.items()} == {name: p.shape for name, p in theta.items()}
    torch.testing.assert_close(flat(moves), expected, rtol=1e-10, atol=1e-12)


def test_one_particle_follows_its_gradient():
    theta, gradients = particles(1), particles(1, seed=1)
    torch.testing.assert_close(flat(direction(theta, gradients)), flat(gradients), rtol=0, atol=0)


def test_particles_push_each_other_apart():
    close = particles(4, scale=1e-3)
    moves = direction(close, {name: torch.zeros_like(p) for name, p in close.items()})
    after = squared_distances({name: p + 1e-6 * moves[name] for name, p in close.items()})
    assert ((after - squared_distances(close)).fill_diagonal_(1) > 0).all()


def test_equal_particles_do_not_divide_by_zero():
    same = {name: p[:1].expand(3, *p.shape[1:]) for name, p in particles(3).items()}
    gradients = particles(3, seed=1)
    for name, move in direction(same, gradients).items():
        torch.testing.assert_close(move, gradients[name].mean(0, keepdim=True).expand_as(move))


def test_vmap_is_a_loop():
    sets = [particles(4, seed=s) for s in range(3)]
    gradients = [particles(4, seed=10 + s) for s in range(3)]
    stacked = [{name: torch.stack([one[name] for one in many]) for name in many[0]} for many in (sets, gradients)]
    batched = torch.vmap(direction)(*stacked)
    for t in range(3):
        for name, move in direction(sets[t], gradients[t]).items():
            torch.testing.assert_close(batched[name][t], move, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_it_finds_a_normal_distribution():
    mean, std = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 2.0]).double()
    theta = {"x": torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).double() * 0.1}
    for _ in range(1500):
        moves = direction(theta, {"x": (mean - theta["x"]) / std**2})
        theta = {"x": theta["x"] + 0.2 * moves["x"]}
    torch.testing.assert_close(theta["x"].mean(0), mean, rtol=0, atol=0.1)
    torch.testing.assert_close(theta["x"].std(0), std, rtol=0.2, atol=0)
