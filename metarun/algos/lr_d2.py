"""LR-D2: the head is a few Newton steps of logistic regression on the embeddings, each class against the rest.

Bertinetto, Henriques, Torr, Vedaldi: Meta-learning with Differentiable Closed-form Solvers, ICLR 2019, arXiv
1805.08136. Official code: github bertinetto/r2d2 (fewshots/models/lrd2.py).

Inner problem, for each class k separately; y_i in {0, 1}: whether example i belongs to it; x_i = [f of example i, 1]:
    min_w  - sum_i log p(y_i | x_i) + lambda / 2 || w ||^2,    p(1 | x) = sigmoid(w . x)
  by iteratively reweighted least squares, N steps from w = 0:
    eta = X w,  mu = sigmoid(eta),  S = diag(mu (1 - mu)),
    w = X^T (X X^T + lambda S^-1)^-1 z,  z = eta + S^-1 (y - mu)                     (eq. 8)
Outer problem, over tasks with query sets D':
    min_{f, a, lambda}  mean_i mean_{(x, y) in D'_i}  - log p(y | x),    p(k | x) = softmax_k( a w_k . [f(x), 1] )

S^-1 overflows where mu saturates, so nothing is divided by S here. The smaller of two systems yields the same w,
    X^T (S X X^T + lambda I)^-1 t = (X^T S X + lambda I)^-1 X^T t,    t = S eta + y - mu

    symbol   code                   shape / unit
    f        self.net               the backbone without a last layer, to embeddings [n, d]
    X        X                      [n, d + 1]
    y        Y                      [n, ways] of 0 and 1: a column for each class
    w        W                      [d + 1, ways]; the bias is penalised too
    S        S                      [n, ways], the diagonals
    t        t                      [n, ways]
    N        self.newton_steps
    lambda   self.lambda_           0-dim; if learned, exp of `log_lambda`, hence positive
    a        self.scale             [1], learned

Differences from the paper
    - a is R2-D2's adjustment; the official code of LR-D2 has it commented out (a = 1). R2-D2's shift is left out, as it
      cancels in the softmax.
    - Two classes are each classified against the other, with scores a eta and -a eta; the official code has a single
      regression with log odds eta.
    - A learned lambda is exp of a parameter, and queries, backbone and optimizer are the run's, as in r2d2.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarun.algos.r2d2 import R2D2, solve
from metarun.checks import Positive, require_int
from metarun.learner.learner import Backbone
from metarun.tasks import TaskLoss


class LRD2(R2D2):
    """Class scores are those of logistic regressions on the embedded support set, one class against the rest.

    Args:
        backbone, ways, loss: as in `Embedding`.
        regularization: lambda, or its initial value if it is learned.
        learn_lambda: whether lambda is learned.
        scale: initial value of a.
        newton_steps: N.

    Raises:
        ValueError: a lambda or a scale that is not above 0, or steps that are not an integer of at least 1.
    """

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        loss: TaskLoss,
        regularization: Positive,
        learn_lambda: bool,
        scale: Positive,
        newton_steps: int,
    ) -> None:
        super().__init__(backbone, ways, loss, regularization, learn_lambda, scale)
        require_int("algo", minimum=1, newton_steps=newton_steps)
        self.newton_steps = newton_steps

    def solve(self, X: Tensor, Y: Tensor) -> Tensor:
        return logistic(X, Y, self.lambda_, self.newton_steps)


def logistic(X: Tensor, Y: Tensor, weight: Tensor, steps: int) -> Tensor:
    """W `[p, k]` after `steps` Newton steps from 0, for X `[n, p]` and Y `[n, k]` of 0 and 1.

    Each column minimises the negative log-likelihood plus `weight` / 2 times its squared norm.
    """
    n, p = X.shape
    penalty = weight * torch.eye(min(n, p), dtype=X.dtype, device=X.device)
    kernel = X @ X.T if n < p else None
    W = X.new_zeros(p, Y.shape[1])
    for _ in range(steps):
        eta = X @ W
        mu = eta.sigmoid()
        S = mu * (1 - mu)
        t = S * eta + Y - mu
        if kernel is not None:
            W = X.T @ _solve_per_class(S.T.unsqueeze(-1) * kernel + penalty, t)
        else:
            W = _solve_per_class(X.T @ (S.T.unsqueeze(-1) * X) + penalty, X.T @ t)
    return W


def _solve_per_class(A: Tensor, B: Tensor) -> Tensor:
    """A_k^-1 b_k for each class k: A `[k, q, q]`, B `[q, k]` -> `[q, k]`."""
    return solve(A, B.T.unsqueeze(-1)).squeeze(-1).T
