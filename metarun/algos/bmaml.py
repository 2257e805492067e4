"""BMAML, Bayesian MAML: particles that jointly approximate a task's posterior; and EMAML, an ensemble of MAMLs.

Yoon, Kim, Dia, Kim, Bengio, Ahn: Bayesian Model-Agnostic Meta-Learning, NeurIPS 2018, arXiv 1806.03836. Official code
(regression): github jsikyoon/bmaml (bmaml.py, bnn.py, bmaml_main.py; emaml.py).

Inner problem, S steps of Stein variational gradient descent on the support set D (numerics/svgd.py):
    theta_m <- theta_m + alpha phi_m,    phi from grad log p(theta_m | D), m = 1..M
    theta = (w, log gamma, log lambda),    log p(D, theta) as in learner/precisions.py
  The likelihood is summed over D: normal with precision gamma in a regression, else softmax, which has no gamma.
Outer problem, the chaser loss, over tasks with query sets D':
    min  mean_i sum_m | w_m after S steps on D_i  -  w_m after s more on D_i and D'_i |^2
  The second term, the leader, is treated as a constant. Precisions do not enter the distance.
EMAML (`ensemble`): each w_m descends by itself on L, and the outer problem is MAML's for each,
    min  mean_i mean_m L(w_m after S steps, D'_i)

    symbol          code                          shape / unit
    w               self.net                      the backbone's parameters, each `[M, ...]`, M initialisations
    log gamma       precisions.log                `[M]`, of a regression: precision of a target about its prediction
    log lambda      precisions.log                `[M]`, precision of weights and biases
    Gamma prior     precisions.priors             shape and rate
    phi             phi                           `direction` of numerics/svgd.py, shaped as theta
    alpha, S        self.inner_lr, inner_steps    `eval_steps` at test
    s               leader_steps                  of step size `leader_lr`
    L               self.loss                     mean over examples; used by EMAML alone

Differences from the paper
    - The official kernel lacks the factor 2 of its own derivative; its median counts each pair twice and M zeros too.
    - Precisions step at `precision_rate` times alpha (`lambda_lr` in the official code) and start equal; in the
      official code, nearly equal.
    - On images all weights are particles; the paper's particles share the features (from memory, not verified).
    - EMAML's loss is a mean over particles; the official code sums. `first_order` drops the derivative of grad log p
      but not that of the kernel, as `stop_grad` in the official code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import grad, vmap

from metarun.checks import NonNegative, require_int
from metarun.learner.ensemble import (
    Weights,
    constants,
    descend_all,
    for_each,
    predict_by_all,
    stack_parameters,
)
from metarun.learner.learner import Backbone, Learner
from metarun.learner.precisions import Precisions
from metarun.learner.prediction import Predictor, Samples
from metarun.numerics.svgd import direction, squared_distances
from metarun.tasks import LOSSES, Examples, Task, TaskLoss


class BMAML(Learner):
    """Learns initial particles that a few steps of SVGD turn into a sample of a task's posterior.

    Args:
        backbone, outputs, loss, inner_steps, eval_steps, first_order: as in MAML.
        particles: M.
        ensemble: run EMAML, which uses only `inner_lr` of the arguments below.
        inner_lr: alpha; it scales a sum over examples divided by M, in EMAML a mean over examples.
        leader_lr, leader_steps: step size of the leader, and s.
        noise_precision, weight_precision: gamma and lambda, each (initial value, shape, rate).
        precision_rate: step size of log gamma and log lambda, relative to alpha; 0: they do not adapt.

    Raises:
        ValueError: a count out of range, or a precision that is not three numbers above 0.
    """

    inner_lr: Tensor
    leader_lr: Tensor
    precision_rate: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        particles: int,
        ensemble: bool,
        inner_lr: NonNegative,
        inner_steps: int,
        eval_steps: int,
        first_order: bool,
        leader_lr: NonNegative,
        leader_steps: int,
        noise_precision: Sequence[float],
        weight_precision: Sequence[float],
        precision_rate: NonNegative,
    ) -> None:
        super().__init__(loss)
        require_int("algo", inner_steps=inner_steps, eval_steps=eval_steps, leader_steps=leader_steps)
        require_int("algo", minimum=1, particles=particles)
        self.net = stack_parameters([backbone(outputs=outputs) for _ in range(particles)])
        priors = {"log_lambda": weight_precision}
        if loss is LOSSES["regression"]:
            priors["log_gamma"] = noise_precision
        self.precisions = Precisions(particles, {} if ensemble else priors)
        for name in self.precisions.log:
            self.start_exactly(f"precisions.log.{name}", log(priors[name][0]))
        self.ensemble, self.first_order = ensemble, first_order
        self.inner_steps, self.eval_steps, self.leader_steps = inner_steps, eval_steps, leader_steps
        for name, value in {"inner_lr": inner_lr, "leader_lr": leader_lr, "precision_rate": precision_rate}.items():
            self.register_hyperparameter(name, value)

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # draws nothing
        for theta in self.adapt_particles(self.initial_particles(), support, steps, self.inner_lr):
            weights, precisions = self.precisions.split(theta)
            variances = {name: (-log_precision).exp().view(-1, 1, 1) for name, log_precision in precisions.items()}
            yield predict_by_all(self, self.net, weights, support, variances.get("log_gamma"))

    def meta_loss(self, task: Task, random_inputs: Any = ()) -> Tensor:
        if self.ensemble:
            predictions = cast(Samples, self.adapt(task.support, random_inputs)(task.query.x)).values
            return vmap(self.loss)(predictions, for_each(len(predictions), task.query.y)).mean()
        *_, follower = self.adapt_particles(self.initial_particles(), task.support, self.inner_steps, self.inner_lr)
        support_and_query = Examples(*map(torch.cat, zip(task.support, task.query, strict=True)))
        *_, leader = self.adapt_particles(constants(follower), support_and_query, self.leader_steps, self.leader_lr)
        weights, _ = self.precisions.split(follower)
        return torch.stack([(w - leader[name]).square().sum() for name, w in weights.items()]).sum()

    def initial_particles(self) -> Weights:
        """theta: weights and log precisions by name, `[M, ...]`."""
        return dict(self.net.named_parameters()) | dict(self.precisions.log)

    def adapt_particles(self, theta: Weights, examples: Examples, steps: int, rate: Tensor) -> Iterator[Weights]:
        """Particles after 0, 1, ..., `steps` steps of size `rate` on a set of examples."""
        if self.ensemble:
            yield from descend_all(self, self.net, theta, examples, steps, rate, self.first_order)
            return

        def log_posterior(particle: Weights) -> Tensor:
            weights, _ = self.precisions.split(particle)
            prediction = self.functional_predictor(self.net, weights, examples)(examples.x)
            return self.precisions.log_joint(particle, cast(Tensor, prediction), examples.y)

        yield theta
        for _ in range(steps):
            gradients = vmap(grad(log_posterior))(constants(theta) if self.first_order else theta)
            phi = direction(theta, gradients)
            rates = {name: rate * self.precision_rate if name in self.precisions.log else rate for name in theta}
            theta = {name: p + rates[name] * phi[name] for name, p in theta.items()}
            yield theta

    def diagnostics(self) -> dict[str, Tensor]:
        """Root mean square distance between particles relative to their norm, and the mean precisions.

        spread: distance between particles relative to their norm; 0: they have fallen together.
        log_gamma: mean over particles of the precision gamma (not its logarithm); of a regression.
        log_lambda: mean over particles of the precision lambda (not its logarithm).
        """
        weights, precisions = self.precisions.split(self.initial_particles())
        norm = torch.cat([p.flatten(1) for p in weights.values()], 1).square().sum(1).mean()
        means = {name: log_precision.exp().mean() for name, log_precision in precisions.items()}
        return means | {"spread": (squared_distances(weights).mean() / norm).sqrt()}
