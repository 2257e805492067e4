"""iMAML, MAML with implicit gradients.

Rajeswaran, Finn, Kakade, Levine: Meta-Learning with Implicit Gradients, NeurIPS 2019, arXiv 1909.04630. Official
code: github aravindr93/imaml_dev (implicit_maml/learner_model.py, examples/omniglot_implicit_maml.py).

Inner problem, on the support set D; S steps of gradient descent from phi = theta approximate the minimiser:
    phi* = argmin_phi  L(phi, D) + lambda / 2 |phi - theta|^2
    phi <- phi - alpha (grad L(phi, D) + lambda (phi - theta))
Outer problem, over tasks with query sets D':
    min_theta  mean_i L(phi*_i(theta), D'_i),
    whose gradient for one task is  v = (I + H / lambda)^-1 grad L(phi*, D'),    H the Hessian of L(., D) at phi*
v is computed by C steps of conjugate gradients, which only need products of H with vectors. No gradient flows through
the inner steps, so memory does not grow with S.

    symbol   code                    shape / unit
    theta    self.net                the backbone's parameters
    alpha    self.inner_lr           0-dim
    lambda   self.regularization     0-dim; `eval_regularization` in the inner loop at test
    S        inner_steps             steps in training; `eval_steps` at test
    C        cg_steps                0: v = grad L(phi*, D'), as in first-order MAML
    d        self.cg_damping         0-dim; (1 + d) I replaces I: shorter steps, safe where H is indefinite
    v        v                       one tensor of each parameter's shape
    L        self.loss               mean over a set's examples

Differences from the paper
    - The official inner loop is plain gradient descent with one step towards theta at its end, and its matrix is
      (1 + d) I + H / (lambda + 10). Here both follow the paper's equations, for which d = 0 is exact.
    - Conjugate gradients take all C steps; the official code stops when the residual is small. They stop early only at
      a direction of curvature below -lambda / 2 of H, which a convex problem does not have: there phi* is not a
      minimum, and the formula amplifies without bound.
    - A learned lambda is not implemented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vjp

from metarun.checks import NonNegative, Positive, require_int, require_positive
from metarun.learner.learner import Backbone, Learner
from metarun.learner.prediction import Predictor
from metarun.numerics.conjugate_gradients import Weights, conjugate_gradients
from metarun.tasks import Examples, Task, TaskLoss


class IMAML(Learner):
    """Learns an initialisation such that training on a task, regularised towards it, generalises.

    Args:
        backbone: makes the network, `backbone(outputs=...)`.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        inner_lr: alpha.
        inner_steps: S in training.
        eval_steps: steps at which the headline is measured.
        regularization: lambda.
        eval_regularization: lambda in the inner loop at test.
        cg_steps: C.
        cg_damping: d.

    Raises:
        ValueError: a count that is not a non-negative integer, or a lambda that is not above 0.
    """

    inner_lr: Tensor
    regularization: Tensor
    eval_regularization: Tensor
    cg_damping: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        inner_lr: NonNegative,
        inner_steps: int,
        eval_steps: int,
        regularization: Positive,
        eval_regularization: NonNegative,
        cg_steps: int,
        cg_damping: NonNegative,
    ) -> None:
        super().__init__(loss)
        require_int("algo", inner_steps=inner_steps, eval_steps=eval_steps, cg_steps=cg_steps)
        require_positive("algo", regularization=regularization)
        self.net = backbone(outputs=outputs)
        self.register_hyperparameter("inner_lr", inner_lr)
        self.register_hyperparameter("regularization", regularization)
        self.register_hyperparameter("cg_damping", cg_damping)
        self.register_hyperparameter("eval_regularization", eval_regularization)
        self.inner_steps, self.eval_steps, self.cg_steps = inner_steps, eval_steps, cg_steps

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # draws nothing
        return (self.functional_predictor(self.net, phi, support) for phi in self._inner_loop(support, steps))

    def meta_loss(self, task: Task, random_inputs: Any = ()) -> Tensor:
        """The query loss at phi*, with the implicit gradient."""
        del random_inputs
        *_, phi = self._inner_loop(task.support, self.inner_steps)

        def query_loss(phi: Weights) -> Tensor:
            return self.loss(self.functional_predictor(self.net, phi, task.support)(task.query.x), task.query.y)

        query_gradient = grad(query_loss)(phi)
        hessian_product = vjp(grad(self._support_loss(task.support)), phi)[1]

        def matrix_product(u: Weights) -> Weights:
            (product,) = hessian_product(u)
            return {n: (1 + self.cg_damping) * u[n] + product[n] / self.regularization for n in u}

        v = conjugate_gradients(matrix_product, query_gradient, self.cg_steps)
        zeros = [((p - p.detach()) * v[n]).sum() for n, p in self.net.named_parameters()]  # with gradient v
        return query_loss(phi) + torch.stack(zeros).sum()

    def _support_loss(self, support: Examples) -> Callable[[Weights], Tensor]:
        return lambda phi: self.loss(self.functional_predictor(self.net, phi, support)(support.x), support.y)

    def _inner_loop(self, support: Examples, steps: int) -> Iterator[Weights]:
        """phi after 0, 1, ..., `steps` steps, each a constant to autograd."""
        theta = {name: p.detach() for name, p in self.net.named_parameters()}
        lam = self.regularization if self.training else self.eval_regularization
        phi = theta
        yield phi
        for _ in range(steps):
            gradient = grad(self._support_loss(support))(phi)
            phi = {n: w - self.inner_lr * (gradient[n] + lam * (w - theta[n])) for n, w in phi.items()}
            yield phi
