"""MetaOptNet: the head is a multi-class support vector machine on the embeddings, differentiated at its optimum.

Lee, Maji, Ravichandran, Soatto: Meta-learning with Differentiable Convex Optimization, CVPR 2019, arXiv 1904.03758.
Official code: github kjunelee/MetaOptNet (models/classification_heads.py, train.py).

Inner problem, of n embedded support examples x_i of classes y_i, in the dual of Crammer and Singer:
    min_a  1/2 sum_m || w_m ||^2 + r/2 || a ||^2 - sum_i a_{i y_i},    w_m = sum_i a_im x_i,
           with  a_im <= C 1[m = y_i]  and  sum_m a_im = 0
  `variant: ridge` in its place:    a = (X X^T + lambda I)^-1 Y
Outer problem, over tasks with query sets D', of the softmax over classes of s w_m . f(x):
    min_{f, s}  mean_i mean_{(x, y) in D'_i}  - sum_m q_m log p(m | x),
    q_m = 1 - epsilon for m = y and epsilon / (ways - 1) for the others

The gradient reaches the support set's embeddings through w directly, and through a by the conditions for its optimum
(metarun/numerics/quadratic_program.py). Labels and bounds carry none.

    symbol    code                      shape / unit
    f         self.net                  the backbone without a last layer, to embeddings [n, d]
    X         known.x                   [n, d], row i is x_i
    Y         member                    [n, ways], 0 and 1
    a         a                         [n, ways]
    w         w                         [d, ways]
    C         self.C                    0-dim
    r         self.kernel_ridge         0-dim; 1: the code's identity added to the kernel; 0: the paper's machine
    lambda    self.regularization       0-dim
    epsilon   self.label_smoothing      0-dim
    s         self.scale                [1], learned

Differences from the paper
    - r: versions of the code have 1 or 0. With 1 the machine is another one, and a is always unique.
    - The program is solved to 1e-12 in float64 (which MPS has not) by a method of our own; the paper stops after 3
      iterations, the code after at most 15.
    - The code's ridge variant has 2 Y in place of Y, which s makes up for.
    - The code weighs validation loss without epsilon; so do metrics here.
    - Backbone, optimizer (the paper's rate falls in four steps), augmentation and DropBlock are the run's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun.algos.r2d2 import solve
from metarun.learner.embedding import Embedding, one_hot
from metarun.learner.learner import Backbone, require_positive
from metarun.learner.prediction import Prediction, Predictor
from metarun.numerics.quadratic_program import crammer_singer
from metarun.tasks import Examples, TaskLoss

VARIANTS = ("svm", "ridge")


class MetaOptNet(Embedding):
    """Class scores are those of a support vector machine (or of ridge regression) on the embedded support set.

    Args:
        backbone, ways, loss: as in `Embedding`.
        variant: `svm` or `ridge`.
        C: bound on the dual variables (`svm`).
        kernel_ridge: r (`svm`).
        regularization: lambda (`ridge`).
        label_smoothing: epsilon, in training.
        scale: where s starts.

    Raises:
        ValueError: an unknown variant; C, lambda or scale not above 0; r below 0; epsilon not in [0, 1).
    """

    init_only_args = ("scale",)
    C: Tensor
    kernel_ridge: Tensor
    regularization: Tensor
    label_smoothing: Tensor

    def __init__(
        self,
        backbone: Backbone,
        ways: int,
        loss: TaskLoss,
        variant: str,
        C: float,
        kernel_ridge: float,
        regularization: float,
        label_smoothing: float,
        scale: float,
    ) -> None:
        super().__init__(backbone, ways, loss)
        if variant not in VARIANTS:
            raise ValueError(f"algo.variant must be one of {', '.join(VARIANTS)}; got {variant!r}")
        require_positive(C=C, regularization=regularization, scale=scale)
        if not kernel_ridge >= 0:
            raise ValueError(f"kernel_ridge must be at least 0, got {kernel_ridge}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}")
        self.variant = variant
        numbers = {"C": C, "kernel_ridge": kernel_ridge, "regularization": regularization}
        for name, value in (numbers | {"label_smoothing": label_smoothing}).items():
            self.register_hyperparameter(name, value)
        self.scale = nn.Parameter(torch.tensor([float(scale)]))

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        del random_inputs  # draws nothing
        w = support.x.T @ self.dual(support)
        return lambda z: self.scale * (z @ w)

    def dual(self, support: Examples) -> Tensor:
        """a `[n, ways]` of embeddings `x [n, d]` with classes `y [n]`."""
        member = one_hot(support.y, self.ways, support.x.dtype)
        kernel = support.x @ support.x.T
        eye = torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
        if self.variant == "ridge":
            return solve(kernel + self.regularization * eye, member)
        return crammer_singer(kernel + self.kernel_ridge * eye, member, self.C)

    def query_loss(self, prediction: Prediction, y: Tensor) -> Tensor:
        assert isinstance(prediction, Tensor)
        others = self.label_smoothing / (self.ways - 1)
        q = others + (1 - self.label_smoothing - others) * one_hot(y, self.ways, prediction.dtype)
        return -(q * F.log_softmax(prediction, -1)).sum(-1).mean()

    def diagnostics(self) -> dict[str, Tensor]:
        return {"scale": self.scale.squeeze()}
