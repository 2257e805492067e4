"""Conjugate gradients beyond textbooks: after convergence, and at negative curvature."""

import torch

from metarun.numerics.conjugate_gradients import conjugate_gradients


def test_steps_after_convergence_change_nothing():
    """Two eigenvalues: solved in two steps, after which all divisors are 0; also for b = 0."""
    scale = torch.tensor([1.0, 1.0, 4.0], dtype=torch.float64)
    b = {"w": torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)}
    x = conjugate_gradients(lambda u: {"w": scale * u["w"]}, b, 20)
    torch.testing.assert_close(x["w"], torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64))
    zero = conjugate_gradients(lambda u: u, {"w": torch.zeros(3)}, 3)
    assert torch.equal(zero["w"], torch.zeros(3))


def test_without_steps_the_solution_is_the_right_hand_side():
    b = {"w": torch.tensor([1.0, 2.0])}
    assert conjugate_gradients(lambda u: u, b, 0) is b


def test_some_steps_are_those_of_the_textbook():
    """The k-th iterate minimises x A x / 2 - b x over the Krylov space b, A b, ..., A^(k-1) b."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    A, b = root @ root.T + torch.eye(6), torch.randn(6, generator=generator, dtype=torch.float64)
    for steps in (1, 2, 4, 6):
        x = conjugate_gradients(lambda u: {"w": A @ u["w"]}, {"w": b}, steps)["w"]
        krylov = torch.stack([torch.linalg.matrix_power(A, k) @ b for k in range(steps)], 1)
        basis, _ = torch.linalg.qr(krylov)
        expected = basis @ torch.linalg.solve(basis.T @ A @ basis, basis.T @ b)
        torch.testing.assert_close(x, expected, rtol=1e-7, atol=1e-9)


def test_it_stops_at_negative_curvature():
    """Without the stop the small negative eigenvalue would blow its part of b up a hundred times."""
    matrix = torch.diag(torch.tensor([1.0, 2.0, -0.01], dtype=torch.float64))
    for b in ([1.0, 1.0, 0.1], [0.0, 0.0, 1.0]):
        b = torch.tensor(b, dtype=torch.float64)
        x = conjugate_gradients(lambda u: {"w": matrix @ u["w"]}, {"w": b}, 5)["w"]
        assert x.norm() <= 2 * b.norm()
        assert x @ b > 0
    assert torch.equal(x, b)  # negative curvature along b itself: first-order MAML's gradient
