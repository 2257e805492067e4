"""Conjugate gradients where textbooks stop: after convergence, and where the matrix bends down."""

import torch

from metarun.numerics.conjugate_gradients import conjugate_gradients


def test_conjugate_gradients_go_on_after_they_have_converged():
    """Two eigenvalues: solved in two steps, and then nothing is left to divide by; also for b = 0."""
    scale = torch.tensor([1.0, 1.0, 4.0], dtype=torch.float64)
    b = {"w": torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)}
    x = conjugate_gradients(lambda u: {"w": scale * u["w"]}, b, 20)
    torch.testing.assert_close(x["w"], torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64))
    zero = conjugate_gradients(lambda u: u, {"w": torch.zeros(3)}, 3)
    assert torch.equal(zero["w"], torch.zeros(3))


def test_conjugate_gradients_stop_where_the_matrix_bends_down():
    """Without the stop the small negative eigenvalue would blow its part of b up a hundred times."""
    matrix = torch.diag(torch.tensor([1.0, 2.0, -0.01], dtype=torch.float64))
    for b in ([1.0, 1.0, 0.1], [0.0, 0.0, 1.0]):
        b = torch.tensor(b, dtype=torch.float64)
        x = conjugate_gradients(lambda u: {"w": matrix @ u["w"]}, {"w": b}, 5)["w"]
        assert x.norm() <= 2 * b.norm()
        assert x @ b > 0
    assert torch.equal(x, b)  # bent down along b itself: first-order MAML's gradient
