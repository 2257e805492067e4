"""Is it the optimum? Against the conditions for it, a general solver, and finite differences."""

import numpy as np
import pytest
import torch
from referees import minimize

from metarun.learner.embedding import one_hot
from metarun.numerics import quadratic_program
from metarun.numerics.quadratic_program import crammer_singer


def program(n=12, ways=3, d=20, scale=1.0, ridge=1.0, seed=0, dtype=torch.float64):
    """A kernel matrix and indicators; labels in any order."""
    generator = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = torch.randperm(n, generator=generator).remainder(ways)
    K = x @ x.T + ridge * torch.eye(n, dtype=torch.float64)
    return K.to(dtype), one_hot(y, ways, dtype)


def objective(a, K, Y):
    return 0.5 * (a * (K @ a)).sum() - (a * Y).sum()


def slow(K, Y, C):
    """SciPy's solution, by sequential least squares."""
    n, ways = Y.shape
    K, Y = K.numpy(), Y.numpy()
    result = minimize(
        lambda a: objective(a.reshape(n, ways), K, Y),
        np.zeros(n * ways),
        jac=lambda a: (K @ a.reshape(n, ways) - Y).ravel(),
        bounds=[(None, high) for high in (C * Y).ravel()],
        constraints={"type": "eq", "fun": lambda a: a.reshape(n, ways).sum(1), "jac": lambda _: rows(n, ways)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert result.success
    return result.x.reshape(n, ways)


def rows(n, ways):
    return np.kron(np.eye(n), np.ones(ways))


@pytest.mark.parametrize("C", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_it_is_scipys_optimum(scale, C):
    K, Y = program(scale=scale)
    ours, theirs = crammer_singer(K, Y, C).numpy(), slow(K, Y, C)
    assert objective(ours, K.numpy(), Y.numpy()) <= objective(theirs, K.numpy(), Y.numpy()) + 1e-9
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * C + 1e-6)


HARD = [(n, ways, scale, C, ridge) for n, ways in ((5, 5), (24, 3), (40, 20)) for scale in (1e-3, 1.0, 30.0)
        for C in (1e-3, 0.1, 10.0) for ridge in (0.0, 1.0)]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_constraints_hold_and_the_optimum_cannot_be_improved(dtype):
    """Over nine powers of ten: feasible, and no example can move more weight to its class.

    At an optimum a_im < C 1[m = y_i] only for the classes m that are lowest in g = Y - K a.
    """
    for n, ways, scale, C, ridge in HARD:
        K, Y = program(n, ways, 8, scale, ridge, dtype=dtype)
        a = crammer_singer(K, Y, C)
        assert a.dtype == dtype
        a, K, Y = a.double(), K.double(), Y.double()
        slack = C * Y - a
        rounding = torch.finfo(dtype).eps * C * ways
        assert slack.min() > -1e-9 * C - rounding
        assert a.sum(1).abs().max() < 1e-9 * C + rounding
        g = Y - K @ a
        regret = (g - g.amin(1, keepdim=True)) * slack
        assert regret.max() < (1e-6 if dtype == torch.float64 else 1e-2) * C * (1 + C), (n, ways, scale, C, ridge)


def test_a_bound_that_binds_and_one_that_does_not():
    K, Y = program(scale=0.1)
    tight = crammer_singer(K, Y, 1e-3)
    torch.testing.assert_close((tight * Y).sum(1), torch.full((12,), 1e-3, dtype=torch.float64), rtol=1e-6, atol=0)
    loose, looser = crammer_singer(K, Y, 1e3), crammer_singer(K, Y, 1e5)
    torch.testing.assert_close(loose, looser, rtol=1e-4, atol=1e-6)
    assert loose.max() < 1e3


@pytest.mark.parametrize("C", [0.02, 0.3])
@pytest.mark.parametrize("n", [6, 12])
def test_the_derivative_by_the_kernel_is_that_of_finite_differences(n, C):
    K, Y = program(n)
    K.requires_grad_()
    generator = torch.Generator().manual_seed(1)
    readout = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((crammer_singer(K, Y, C) * readout).sum(), K)
    assert gradient.norm() > 0
    for _ in range(4):
        direction = torch.randn(n, n, generator=generator, dtype=torch.float64)
        direction = direction + direction.T
        ends = [(crammer_singer(K.detach() + h * direction, Y, C) * readout).sum() for h in (1e-5, -1e-5)]
        slope = (ends[0] - ends[1]) / 2e-5
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-3, atol=1e-5 * float(gradient.norm()))


def test_only_the_kernel_carries_gradient():
    K, Y = program()
    C = torch.tensor(0.1, requires_grad=True)
    a = crammer_singer(K.requires_grad_(), Y.requires_grad_(), C)
    by_kernel, *others = torch.autograd.grad(a.square().sum(), (K, Y, C), allow_unused=True)
    assert by_kernel.abs().max() > 0
    assert others == [None, None]


def test_vmap_is_a_loop_though_programs_end_after_different_numbers_of_steps():
    programs = [program(scale=scale, seed=seed) for seed, scale in enumerate((0.01, 1.0, 30.0))]
    K, Y = (torch.stack(parts) for parts in zip(*programs, strict=True))
    K.requires_grad_()
    batched = torch.func.vmap(lambda K, Y: crammer_singer(K, Y, 0.1), randomness="error")(K, Y)
    single = torch.stack([crammer_singer(k, y, 0.1) for k, y in zip(K, Y, strict=True)])
    torch.testing.assert_close(batched, single, rtol=1e-9, atol=1e-12)
    gradients = [torch.autograd.grad(a.square().sum(), K)[0] for a in (batched, single)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-12)


def test_float32_finds_what_float64_does():
    K, Y = program(25, 5, 64)
    double, single = crammer_singer(K, Y, 0.1), crammer_singer(K.float(), Y.float(), 0.1)
    assert (single.double() - double).abs().max() < 1e-5


def test_more_iterations_change_nothing(monkeypatch):
    for scale in (1e-3, 1.0, 30.0):
        K, Y = program(24, 3, 8, scale)
        before = crammer_singer(K, Y, 0.1)
        with monkeypatch.context() as patch:
            patch.setattr(quadratic_program, "ITERATIONS", 60)
            torch.testing.assert_close(crammer_singer(K, Y, 0.1), before, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_twenty_iterations_are_enough(monkeypatch):
    """Without Mehrotra's corrector it takes thirty."""
    steps = []
    advance = quadratic_program._advance
    monkeypatch.setattr(quadratic_program, "_advance", lambda *a: steps.append(1) or advance(*a))
    for n, ways, scale, C, ridge in HARD:
        steps.clear()
        crammer_singer(*program(n, ways, 8, scale, ridge), C)
        assert len(steps) <= 22


def test_a_kernel_that_is_no_number_gives_a_solution_that_is_none():
    K, Y = program()
    assert crammer_singer(K * torch.nan, Y, 0.1).isnan().all()
