"""BMAML, Bayesian MAML: particles that follow a task's posterior together; and EMAML, an ensemble of MAMLs.

Yoon, Kim, Dia, Kim, Bengio, Ahn: Bayesian Model-Agnostic Meta-Learning, NeurIPS 2018, arXiv 1806.03836. Official code
(regression): github jsikyoon/bmaml (bmaml.py, bnn.py, bmaml_main.py; emaml.py).

Inner problem, S steps of Stein variational gradient descent on the support set D (svgd.py, phi its direction):
    theta_m <- theta_m + alpha phi_m,    phi from grad log p(theta_m | D), m = 1..M
    theta = (w, log gamma, log lambda),    log p(D, theta) as in precisions.py
  It has the likelihood's sum over D: normal with precision gamma, or softmax, which has no gamma.
Outer problem, the chaser loss, over tasks with query sets D':
    min  mean_i sum_m | w_m after S steps on D_i  -  w_m after s more on D_i and D'_i |^2
  The second, the leader, counts as a constant. Precisions are no part of the distance.
EMAML (`ensemble`): each w_m descends by itself on L, and the outer problem is MAML's for each,
    min  mean_i mean_m L(w_m after S steps, D'_i)

    symbol          code                          shape / unit
    w               self.net                      the backbone's parameters, each `[M, ...]`, M draws of its init
    log gamma       precisions.log                `[M]`, of a regression: precision of a target about its prediction
    log lambda      precisions.log                `[M]`, precision of weights and biases
    Gamma           precisions.priors             shape and rate
    alpha, S        self.inner_lr, inner_steps    `eval_steps` at test
    s               leader_steps                  of size `leader_lr`
    L               self.loss                     mean over examples; EMAML's alone

Differences from the paper
    - The code's kernel lacks the 2 of its own derivative, and its median counts each pair twice and M zeros too.
    - Precisions step at `precision_rate` times alpha (the code's `lambda_lr`), and start equal; the code's nearly so.
    - On images all weights are particles. The paper's share their features there (from memory, not verified).
    - EMAML's loss is a mean over particles, the code's a sum. `first_order` drops the derivative of grad log p, not
      that of the kernel, as the code's `stop_grad`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import grad, vmap

from metarun.learner.ensemble import (
    Weights,
    constants,
    descend_all,
    for_each,
    predict_by_all,
    refuse_running_norms,
    stack_parameters,
)
from metarun.learner.learner import Backbone, Learner, require_counts
from metarun.learner.precisions import Precisions
from metarun.learner.prediction import Predictor, Samples
from metarun.numerics.svgd import direction, squared_distances
from metarun.tasks import LOSSES, Examples, Task, TaskLoss


class BMAML(Learner):
    """Learns where particles start, so that a few steps of SVGD make them a sample of a task's posterior.

    Args:
        backbone, outputs, loss, inner_steps, eval_steps, first_order: as in MAML.
        particles: M.
        ensemble: EMAML; of what follows only `inner_lr` is used then.
        inner_lr: alpha, times a sum over examples and 1/M; of EMAML times a mean over examples.
        leader_lr, leader_steps: step size of the leader, and s.
        noise_precision, weight_precision: gamma and lambda, (start, shape, rate).
        precision_rate: times alpha, of the steps of log gamma and log lambda; 0: they do not adapt.

    Raises:
        ValueError: no counts, no three numbers above 0, or a backbone whose norms keep running statistics.
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
        inner_lr: float,
        inner_steps: int,
        eval_steps: int,
        first_order: bool,
        leader_lr: float,
        leader_steps: int,
        noise_precision: Sequence[float],
        weight_precision: Sequence[float],
        precision_rate: float,
    ) -> None:
        super().__init__(loss)
        require_counts(inner_steps=inner_steps, eval_steps=eval_steps, leader_steps=leader_steps)
        require_counts(least=1, particles=particles)
        self.net = stack_parameters([backbone(outputs=outputs) for _ in range(particles)])
        refuse_running_norms(self.net, "bmaml")
        random_inputs = {"log_gamma": noise_precision} if loss is LOSSES["regression"] else {}
        self.precisions = Precisions(particles, {} if ensemble else {"log_lambda": weight_precision} | random_inputs)
        self.ensemble, self.first_order = ensemble, first_order
        self.inner_steps, self.eval_steps, self.leader_steps = inner_steps, eval_steps, leader_steps
        for name, value in {"inner_lr": inner_lr, "leader_lr": leader_lr, "precision_rate": precision_rate}.items():
            self.register_hyperparameter(name, value)

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # draws nothing
        for theta in self.walk(self.start(), support, steps, self.inner_lr):
            weights, precisions = self.precisions.split(theta)
            variance = {name: (-p).exp().view(-1, 1, 1) for name, p in precisions.items()}.get("log_gamma")
            yield predict_by_all(self, self.net, weights, support, variance)

    def meta_loss(self, task: Task, random_inputs: Any = ()) -> Tensor:
        if self.ensemble:
            predicted = cast(Samples, self.adapt(task.support, random_inputs)(task.query.x)).values
            return vmap(self.loss)(predicted, for_each(len(predicted), task.query.y)).mean()
        *_, follower = self.walk(self.start(), task.support, self.inner_steps, self.inner_lr)
        both = Examples(*map(torch.cat, zip(task.support, task.query, strict=True)))
        *_, leader = self.walk(constants(follower), both, self.leader_steps, self.leader_lr)
        weights, _ = self.precisions.split(follower)
        return torch.stack([(w - leader[name]).square().sum() for name, w in weights.items()]).sum()

    def start(self) -> Weights:
        """theta: weights and log precisions by name, `[M, ...]`."""
        return dict(self.net.named_parameters()) | dict(self.precisions.log)

    def walk(self, theta: Weights, examples: Examples, steps: int, rate: Tensor) -> Iterator[Weights]:
        """Particles after 0, 1, ..., `steps` steps of size `rate` on a set of examples."""
        if self.ensemble:
            yield from descend_all(self, self.net, theta, examples, steps, rate, self.first_order)
            return

        def log_posterior(one: Weights) -> Tensor:
            weights, _ = self.precisions.split(one)
            prediction = self.functional_predictor(self.net, weights, examples)(examples.x)
            return self.precisions.log_joint(one, cast(Tensor, prediction), examples.y)

        yield theta
        for _ in range(steps):
            moves = direction(theta, vmap(grad(log_posterior))(constants(theta) if self.first_order else theta))
            rates = {name: rate * self.precision_rate if name in self.precisions.log else rate for name in theta}
            theta = {name: p + rates[name] * moves[name] for name, p in theta.items()}
            yield theta

    def diagnostics(self) -> dict[str, Tensor]:
        """Root mean square distance of particles over that of their norm; mean precisions."""
        weights, precisions = self.precisions.split(self.start())
        norm = torch.cat([p.flatten(1) for p in weights.values()], 1).square().sum(1).mean()
        told = {name: p.exp().mean() for name, p in precisions.items()}
        return told | {"spread": (squared_distances(weights).mean() / norm).sqrt()}
