"""PLATIPUS, probabilistic MAML: the initialisation is sampled from a distribution that depends on the task's data.

Finn, Xu, Levine: Probabilistic Model-Agnostic Meta-Learning, NeurIPS 2018, arXiv 1806.02817. There is no official code;
a public port of the paper's algorithms 1 and 2 is github cnguyen10/few_shot_meta_learning (Platipus.py,
HyperNetClasses.py). Other Bayesian variants of MAML: llama.py (hierarchical Bayes), bmaml.py (particles).

Inner problem, on the support set D: a sample from a prior whose mean D shifts, then MAML's S steps,
    theta ~ p(theta | D) = N(mu - gamma_p grad L(mu, D), sigma^2)
    phi_0 = theta,    phi_{k+1} = phi_k - alpha grad L(phi_k, D)
  for each of several samples; together their predictions are the prediction.
Outer problem, over tasks with query sets D': a bound on the evidence, with a posterior whose mean D' shifts,
    theta ~ q(theta | D') = N(mu - gamma_q grad L(mu, D'), v_q)
    min  mean_i E_q - log p(D'_i | phi_S(theta, D_i)) + kl_weight KL( q(theta | D'_i) || p(theta | D_i) )
  D' is used in training only. log p is summed over D' and KL over parameters, both without a factor, in nats.

    symbol             code                        shape / unit
    mu                 self.net                    the backbone's parameters
    sigma^2, v_q       prior_, posterior_variance  shaped as mu (learner/gaussian.py); logarithms within `log_variance`
    gamma_p, gamma_q   log_gamma_p, log_gamma_q    logarithms of learned step sizes, 0-dim
    alpha, S           self.inner_lr, inner_steps  0-dim; `eval_steps` at test
    L                  self.loss                   mean over examples; for gradient steps only
    p(y | phi)         log_likelihood              normal with standard deviation `likelihood_std`, or softmax
                       random_inputs               standard normal, [T, samples, parameters]; `train_samples` in
                                                   training

Differences from the paper
    - gamma_p and gamma_q are exponentials, hence above 0; the port's are unconstrained. The logarithms of the variances
      are bounded and initialised to the middle of their range; the port's are unconstrained and initialised at random.
    - q is conditioned on the query set alone, as in algorithm 1 and the port. Both shifts take one step; the port's
      take S.
    - The port's squared error is a mean: a log-likelihood up to its scale, which its `KL_weight` must compensate for.
    - Without random inputs (`adapt(support)`) theta is the prior's mean, one sample.
    - `run.init_from` accepts the weights of a MAML; variances and step sizes then keep their initial values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from metarun.checks import NonNegative, require_int, require_positive
from metarun.learner.ensemble import (
    Weights,
    constants,
    descend_all,
    log_likelihood,
    predict_by_all,
)
from metarun.learner.gaussian import Variances, count_parameters, divergence, draw
from metarun.learner.learner import Backbone, Learner, count_tasks, exact
from metarun.learner.prediction import Predictor, Samples
from metarun.tasks import Batch, Examples, Task, TaskLoss


class PLATIPUS(Learner):
    """Learns a distribution of initialisations, and how a task's data shift it.

    Args:
        backbone, outputs, loss, inner_lr, inner_steps, eval_steps, first_order: as in MAML.
        gamma: initial value of gamma_p and gamma_q.
        kl_weight: weight of the divergence.
        likelihood_std: standard deviation of a regression's target about its prediction.
        log_variance: (lowest, highest), the range of log sigma^2 and log v_q.
        train_samples, samples: number of samples of theta in training and at test.

    Raises:
        ValueError: a count out of range, a number that is not above 0, or a range that is not (lowest, highest).
    """

    init_only_args = ("gamma",)
    inner_lr: Tensor
    kl_weight: Tensor
    likelihood_std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        inner_lr: NonNegative,
        inner_steps: int,
        eval_steps: int,
        first_order: bool,
        gamma: float,
        kl_weight: float,
        likelihood_std: float,
        log_variance: Sequence[float],
        train_samples: int,
        samples: int,
    ) -> None:
        super().__init__(loss)
        require_int("algo", inner_steps=inner_steps, eval_steps=eval_steps)
        require_int("algo", minimum=1, train_samples=train_samples, samples=samples)
        require_positive("algo", gamma=gamma, kl_weight=kl_weight, likelihood_std=likelihood_std)
        self.net = backbone(outputs=outputs)
        self.prior_variance = Variances(self.net, log_variance)
        self.posterior_variance = Variances(self.net, log_variance)
        self.log_gamma_p = nn.Parameter(exact(log(gamma)))
        self.log_gamma_q = nn.Parameter(exact(log(gamma)))
        self.inner_steps, self.eval_steps, self.first_order = inner_steps, eval_steps, first_order
        self.train_samples, self.samples = train_samples, samples
        self.register_hyperparameter("inner_lr", inner_lr)
        self.register_hyperparameter("kl_weight", kl_weight)
        self.register_hyperparameter("likelihood_std", likelihood_std)

    def random_inputs(self, batch: Batch, steps: int, generator: torch.Generator) -> Tensor:
        del steps
        samples = self.train_samples if self.training else self.samples
        shape = (count_tasks(batch), samples, count_parameters(self.net))
        return torch.randn(shape, generator=generator, device=generator.device)

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        theta = draw(self.shifted_mean(support, self.log_gamma_p), self.prior_variance(), random_inputs)
        for phi in self.inner_loop(theta, support, steps):
            yield predict_by_all(self, self.net, phi, support, self.likelihood_std.square())

    def inner_loop(self, theta: Weights, support: Examples, steps: int) -> Iterator[Weights]:
        """phi after 0, 1, ..., `steps` steps, for each sample of theta."""
        return descend_all(self, self.net, theta, support, steps, self.inner_lr, self.first_order)

    def meta_loss(self, task: Task, random_inputs: Any = ()) -> Tensor:
        p = self.shifted_mean(task.support, self.log_gamma_p), self.prior_variance()
        q = self.shifted_mean(task.query, self.log_gamma_q), self.posterior_variance()
        *_, phi = self.inner_loop(draw(*q, random_inputs), task.support, self.inner_steps)
        predictions = cast(Samples, predict_by_all(self, self.net, phi, task.support)(task.query.x)).values
        variance = self.likelihood_std.square()
        log_p = vmap(lambda prediction: log_likelihood(prediction, task.query.y, variance))(predictions)
        return -log_p.mean() + self.kl_weight * divergence(*q, *p)

    def shifted_mean(self, examples: Examples, log_gamma: Tensor) -> Weights:
        """mu - gamma grad L(mu, examples)."""
        mu: Weights = dict(self.net.named_parameters())

        def loss(mu: Weights) -> Tensor:
            return self.loss(self.functional_predictor(self.net, mu, examples)(examples.x), examples.y)

        gradient = grad(loss)(constants(mu) if self.first_order else mu)
        return {name: p - log_gamma.exp() * gradient[name] for name, p in mu.items()}

    def diagnostics(self) -> dict[str, Tensor]:
        """The learned step sizes, and mean standard deviations.

        gamma/prior: step by which the support set shifts the prior's mean.
        gamma/posterior: step by which the query set shifts the posterior's mean.
        std/prior: mean over weights of the prior's standard deviation.
        std/posterior: mean over weights of the posterior's standard deviation.
        """
        return {
            "gamma/prior": self.log_gamma_p.exp(),
            "gamma/posterior": self.log_gamma_q.exp(),
            "std/prior": self.prior_variance.mean_std(),
            "std/posterior": self.posterior_variance.mean_std(),
        }

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, value in self.state_dict().items():
            if not name.startswith("net."):  # absent from a MAML's state
                state_dict.setdefault(prefix + name, value)
        super()._load_from_state_dict(state_dict, prefix, *args)
