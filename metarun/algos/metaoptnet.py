"""MetaOptNet: the head is a multi-class support vector machine on the embeddings, differentiated at its optimum.

Lee, Maji, Ravichandran, Soatto: Meta-learning with Differentiable Convex Optimization, CVPR 2019, arXiv 1904.03758.
Official code: github kjunelee/MetaOptNet (models/classification_heads.py, train.py).

Inner problem, on n embedded support examples x_i of classes y_i, the dual of Crammer and Singer:
    min_a  1/2 sum_m || w_m ||^2 + r/2 || a ||^2 - sum_i a_{i y_i},    w_m = sum_i a_im x_i,
           with  a_im <= C 1[m = y_i]  and  sum_m a_im = 0
  with `variant: ridge` instead:    a = (X X^T + lambda I)^-1 Y
Outer problem, over tasks with query sets D':
    min_{f, s}  mean_i mean_{(x, y) in D'_i}  - sum_m q_m log p(m | x),    p(m | x) = softmax_m( s w_m . f(x) ),
    q_m = 1 - epsilon for m = y and epsilon / (ways - 1) for the others

The gradient reaches the support set's embeddings through w directly, and through a by the optimality conditions
(numerics/quadratic_program.py). Labels and bounds carry no gradient.

    symbol    code                      shape / unit
    f         self.net                  the backbone without a last layer, to embeddings [n, d]
    X         support.x                 [n, d], row i is x_i
    Y         Y                         [n, ways] of 0 and 1
    a         self.dual(support)        [n, ways]
    w         w                         [d, ways]
    C         self.C                    0-dim
    r         self.kernel_ridge         0-dim; 1: the identity that the official code adds to the kernel; 0: the paper
    lambda    self.regularization       0-dim
    epsilon   self.label_smoothing      0-dim
    s         self.scale                [1], learned

Differences from the paper
    - r is 1 in some versions of the official code and 0 in others. With 1 the classifier differs, and a is always
      unique.
    - The program is solved to 1e-12 in float64 (which MPS does not support) by our own interior-point method; the paper
      stops after 3 iterations, the official code after at most 15.
    - The official ridge variant has 2 Y in place of Y, which s compensates for.
    - As in the official code, the validation loss does not use epsilon; neither do other metrics.
    - Backbone, optimizer (the paper's learning rate falls in four steps), augmentation and DropBlock are the run's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarun.algos.r2d2 import solve
from metarun.checks import is_number, require, require_choice, require_non_negative, require_positive
from metarun.learner.embedding import Embedding, one_hot
from metarun.learner.learner import Backbone
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
        scale: initial value of s.

    Raises:
        ValueError: an unknown variant, a C, lambda or scale that is not above 0, r below 0, or epsilon outside [0, 1).
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
        require_choice("algo.variant", variant, VARIANTS)
        require_positive("algo", C=C, regularization=regularization, scale=scale)
        require_non_negative("algo", kernel_ridge=kernel_ridge)
        in_range = is_number(label_smoothing) and 0 <= label_smoothing < 1
        require("algo.label_smoothing", label_smoothing, in_range, "at least 0 and below 1")
        self.variant = variant
        self.register_hyperparameter("C", C)
        self.register_hyperparameter("kernel_ridge", kernel_ridge)
        self.register_hyperparameter("regularization", regularization)
        self.register_hyperparameter("label_smoothing", label_smoothing)
        self.scale = nn.Parameter(torch.tensor([float(scale)]))
        self.start_exactly("scale", scale)

    def head(self, support: Examples, random_inputs: Any = ()) -> Predictor:
        del random_inputs  # draws nothing
        w = support.x.T @ self.dual(support)
        return lambda z: self.scale * (z @ w)

    def dual(self, support: Examples) -> Tensor:
        """a `[n, ways]` of embeddings `x [n, d]` with classes `y [n]`."""
        Y = one_hot(support.y, self.ways, support.x.dtype)
        kernel = support.x @ support.x.T
        eye = torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
        if self.variant == "ridge":
            return solve(kernel + self.regularization * eye, Y)
        return crammer_singer(kernel + self.kernel_ridge * eye, Y, self.C)

    def query_loss(self, prediction: Prediction, y: Tensor) -> Tensor:
        assert isinstance(prediction, Tensor)
        others = self.label_smoothing / (self.ways - 1)
        q = others + (1 - self.label_smoothing - others) * one_hot(y, self.ways, prediction.dtype)
        return -(q * F.log_softmax(prediction, -1)).sum(-1).mean()

    def diagnostics(self) -> dict[str, Tensor]:
        """The factor of the scores.

        scale: learned factor s of the class scores; larger is more confident.
        """
        return {"scale": self.scale.squeeze()}
