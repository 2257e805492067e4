"""LLAMA (L-MAML in the paper): MAML whose outer loss includes the task's uncertainty, by Laplace's method.

Grant, Finn, Levine, Darrell, Griffiths: Recasting Gradient-Based Meta-Learning as Hierarchical Bayes, ICLR 2018, arXiv
1801.08930. There is no official code.

Inner problem, S steps on the support set D, a point estimate of the task's parameters:
    phi_0 = theta,    phi_{k+1} = phi_k - alpha grad L(phi_k, D)
Outer problem, over tasks with query sets D' (subroutine 4, ML-Laplace):
    min_theta  mean_i L(phi_S(D_i), D'_i) + eta log det H_i
    H_i: curvature of -log p(D'_i | phi) at phi_S, block-diagonal by layers, Kronecker-factored (numerics/kfac.py)

Under batch norm a query's prediction depends on other images. With `curvature=exact` each query and class then has a
backward pass of its own, which takes as many times the time and memory as there are queries. With `curvature=joint` a
pass serves one class of all queries: an approximation under batch norm, whose derivatives contain products of different
queries, and exact without. With `backbone.norm=support` the support set goes through the network together with the
queries, and the factors are means over the rows of both.

Predictions are those of the point estimate, as in the paper. Scales and shifts of batch norms neither adapt nor enter
H, as in the paper.

    symbol   code                     shape / unit
    theta    self.net                 the backbone's parameters
    alpha    self.inner_lr            0-dim
    S        inner_steps              `eval_steps` at test
    L        self.loss                mean over a set's examples
    eta      self.eta                 0-dim; 1e-6 in the paper, by cross-validation; Laplace's method has 1/2, for a sum
    log det  log_determinant          0-dim, nats

Differences from the paper
    - H is that of the mean over D', as L is; apart from damping, that changes log det H by a constant.
    - sqrt(`damping`) is added to the diagonal of each factor, without which log det is minus infinity for n examples;
      the paper mentions no damping.
    - The Fisher information's expectation over labels is exact, with a backward pass per class (under batch norm, with
      `curvature=exact`, per class and query); K-FAC samples labels.
    - `setting=miniimagenet/llama` has `curvature=joint`: 75 queries of 84x84 with a pass for each do not fit a GPU.
    - Convolutions use the factors of Grosse and Martens 2016; the paper only cites those of linear layers.
    - For a regression, H is that of normal targets of variance 1; the paper has no regression.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor

from metarun.algos.maml import MAML
from metarun.checks import NonNegative, require_choice, require_positive
from metarun.layers.norm import batch_norms
from metarun.learner.gradient_descent import descend
from metarun.learner.learner import Backbone
from metarun.learner.prediction import Predictor
from metarun.numerics.kfac import log_determinant, tap_layers
from metarun.tasks import Examples, Task, TaskLoss

CURVATURES = ("exact", "joint")


class LLAMA(MAML):
    """Learns an initialisation from which a few gradient steps solve a task, with curvature in its outer loss.

    Args:
        backbone, outputs, loss, inner_lr, inner_steps, eval_steps, first_order: as in MAML.
        eta: weight of the log determinant; 0: MAML, except that batch norms do not adapt.
        damping: of the curvature's factors.
        curvature: `exact`, or `joint`: under batch norm an approximation.

    Raises:
        ValueError: a count that is not a non-negative integer, damping that is not above 0, or an unknown curvature.
    """

    eta: Tensor
    damping: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        inner_lr: NonNegative,
        inner_steps: int,
        eval_steps: int,
        first_order: bool,
        eta: NonNegative,
        damping: float,
        curvature: str = "exact",
    ) -> None:
        super().__init__(backbone, outputs, loss, inner_lr, inner_steps, eval_steps, first_order)
        require_positive("algo", damping=damping)
        require_choice("algo.curvature", curvature, CURVATURES)
        self.taps = tap_layers(self.net)
        fixed = {id(p) for norm in batch_norms(self.net) for p in norm.parameters()}
        self.adapted_names = [name for name, p in self.net.named_parameters() if id(p) not in fixed]
        self.coupled = curvature == "exact" and bool(batch_norms(self.net))
        self.register_hyperparameter("eta", eta)
        self.register_hyperparameter("damping", damping)

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # draws nothing
        rates = dict.fromkeys(self.adapted_names, self.inner_lr)
        return descend(self, self.net, support, steps, rates, self.first_order)

    def meta_loss(self, task: Task, random_inputs: Any = ()) -> Tensor:
        predict = self.adapt(task.support, random_inputs)
        classification = not task.query.y.is_floating_point()

        def scores() -> Tensor:
            return cast(Tensor, predict(task.query.x))

        log_det = log_determinant(scores, self.taps, classification, self.damping, self.coupled)
        return self.loss(scores(), task.query.y) + self.eta * log_det
