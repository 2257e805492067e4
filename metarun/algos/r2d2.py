"""R2-D2: the head is a ridge regression of class indicators on the embeddings.

Bertinetto, Henriques, Torr, Vedaldi: Meta-learning with Differentiable Closed-form Solvers, ICLR 2019, arXiv
1805.08136. Official code: github bertinetto/r2d2 (fewshots/models/r2d2.py, adjust.py).

Inner problem, solved at once, on n support examples; X: embeddings with a column of ones, Y: class indicators:
    W = argmin_W  1/n || X W - Y ||^2 + lambda || W ||^2
      = (X^T X / n + lambda I)^-1 X^T Y / n = X^T / sqrt(n) (X X^T / n + lambda I)^-1 Y / sqrt(n)   (eqs. 4 and 6)
Outer problem, over tasks with query sets D':
    min_{f, a, lambda}  mean_i mean_{(x, y) in D'_i}  - log p(y | x),    p(. | x) = softmax( a [f(x), 1] W )

The gradient flows through the solution, so it reaches f through the support set too. The smaller of the two systems is
solved.

    symbol   code                   shape / unit
    f        self.net               the backbone without a last layer, to embeddings [n, d]
    X        with_ones              [n, d + 1], before the division by sqrt(n)
    Y        one_hot                [n, ways] of 0 and 1
    W        W                      [d + 1, ways]; its last row, the bias, is penalised too
    lambda   self.lambda_           0-dim; if learned, exp of `log_lambda`, hence positive
    a        self.scale             [1], learned

Differences from the paper
    - The paper's adjustment has a shift beside a. It is left out, as it cancels in the softmax.
    - A learned lambda is exp of a parameter; in the official code it is the parameter itself, or a fixed base to its
      power.
    - There are `data.train_queries` queries per class, whatever the shots; the official code fills up episodes of 600
      (240) images.
    - Backbone, optimizer and tasks are the run's; the paper's backbone has 96, 192, 384 and 512 filters, and
      concatenates the embeddings of its last two blocks.
"""

from __future__ import annotations

from math import log
from typing import Any

import torch
from torch import Tensor, nn

from metarun.checks import require_positive
from metarun.learner.embedding import Embedding, one_hot
from metarun.learner.learner import Backbone
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss


class R2D2(Embedding):
    """Class scores are those of a ridge regression on the embedded support set.

    Args:
        backbone, ways, loss: as in `Embedding`.
        regularization: lambda, or its initial value if it is learned.
        learn_lambda: whether lambda is learned.
        scale: initial value of a.

    Raises:
        ValueError: a lambda or a scale that is not above 0.
    """

    init_only_args = ("scale",)
    regularization: Tensor

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        loss: TaskLoss,
        regularization: float,
        learn_lambda: bool,
        scale: float,
    ) -> None:
        super().__init__(backbone, ways, loss)
        require_positive("algo", regularization=regularization, scale=scale)
        self.log_lambda: nn.Parameter | None = None
        if learn_lambda:
            self.log_lambda = nn.Parameter(torch.tensor([float(regularization)]).log())
            self.start_exactly("log_lambda", log(regularization))
        else:
            self.register_hyperparameter("regularization", regularization)
        self.scale = nn.Parameter(torch.tensor([float(scale)]))
        self.start_exactly("scale", scale)

    @property
    def lambda_(self) -> Tensor:
        """Lambda, 0-dim."""
        return self.regularization if self.log_lambda is None else self.log_lambda.exp().squeeze()

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        del random_inputs  # draws nothing
        W = self.solve(with_ones(support.x), one_hot(support.y, self.ways, support.x.dtype))
        return lambda z: self.scale * (with_ones(z) @ W)

    def solve(self, X: Tensor, Y: Tensor) -> Tensor:
        """The base learner's weights `[d + 1, ways]`, from X `[n, d + 1]` and Y `[n, ways]`."""
        n = len(X)
        return ridge(X / n**0.5, Y / n**0.5, self.lambda_)

    def diagnostics(self) -> dict[str, Tensor]:
        """The regularisation and the factor of the scores.

        lambda: weight of the penalty; constant unless `algo.learn_lambda` is true.
        scale: learned factor a of the class scores; larger is more confident.
        """
        return {"lambda": self.lambda_, "scale": self.scale.squeeze()}


def ridge(X: Tensor, Y: Tensor, weight: Tensor) -> Tensor:
    """The W `[p, k]` that minimises || X W - Y ||^2 + weight || W ||^2, for X `[n, p]` and Y `[n, k]`."""
    n, p = X.shape
    eye = torch.eye(min(n, p), dtype=X.dtype, device=X.device)
    if n < p:
        return X.T @ solve(X @ X.T + weight * eye, Y)
    return solve(X.T @ X + weight * eye, X.T @ Y)


def solve(A: Tensor, B: Tensor) -> Tensor:
    """A^-1 B, NaN where that fails (the training loop reports it); torch.linalg.solve may raise instead."""
    return torch.linalg.solve_ex(A, B).result


def with_ones(z: Tensor) -> Tensor:
    """`[n, d]` -> `[n, d + 1]`, for the bias."""
    return torch.cat([z, torch.ones_like(z[:, :1])], 1)
