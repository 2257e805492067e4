"""Alpha MAML: MAML that adapts its inner and its outer learning rate online.

Behl, Baydin, Torr: Alpha MAML: Adaptive Model-Agnostic Meta-Learning, AutoML workshop at ICML 2019, arXiv 1905.07435.
No official code is known. Hypergradients are those of Baydin, Cornish, Rubio, Schmidt, Wood: Online Learning Rate
Adaptation with Hypergradient Descent, ICLR 2018, arXiv 1703.04782.

Inner problem, S steps on the support set D:    theta_0 = theta
                                                theta_{k+1} = theta_k - alpha grad L(theta_k, D)
Outer problem, over tasks with query sets D':   min_theta  F = mean_i L(theta_S(theta, alpha, D_i), D'_i)
                                                theta <- theta - beta g_t,    g_t = grad_theta F
and at every outer step t, before theta moves:
    alpha <- max(0, alpha - h_alpha dF / dalpha)       (for S = 1, dF / dalpha = -mean_i grad L(theta', D'_i)
                                                        . grad L(theta, D_i), the products over all weights)
    beta  <- max(0, beta + h_beta g_t . g_{t-1})       (from t = 2, the product over all weights)

    symbol   code              shape / unit
    theta    self.net          the backbone's parameters
    alpha    self.alpha        0-dim, learned; `inner_lr` is where it starts
    beta     self.beta         0-dim, learned; `optimizer.lr` is where it starts
    h_alpha  alpha_rate        alpha's learning rate, in units of alpha^2 / loss
    h_beta   beta_rate         beta's learning rate, in units of beta^2 / loss
    S        inner_steps       steps in training; `eval_steps` at test
    L        self.loss         mean over a set's examples

The beta rule holds for plain gradient descent: of the run's `optimizer` only `lr` (the start) and clipping (of the
gradients that the rules see) are used, and its `scheduler` (a factor on beta and h_alpha).

Differences from the paper
    - Written from its equations as others report them; its text was not available.
    - alpha moves by automatic differentiation, which holds for any S; means over tasks replace sums.
    - Both rates are clamped at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from metarun.checks import NonNegative, require_int, require_non_negative
from metarun.learner.gradient_descent import descend
from metarun.learner.learner import Backbone, Learner, exact
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss


class AlphaMAML(Learner):
    """MAML that learns its inner and outer learning rates too.

    Args:
        backbone: makes the network, `backbone(outputs=...)`.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        inner_lr: alpha at the start.
        inner_steps: S in training.
        eval_steps: inner steps at which the headline metric is measured.
        first_order: treat the inner gradient as a constant.
        alpha_rate: h_alpha; 0 keeps alpha fixed.
        beta_rate: h_beta; 0 keeps beta fixed.

    Raises:
        ValueError: steps that are not integers of at least 0, or a rate below 0.
    """

    fusable = False  # its optimizer moves beta, by products over all weights
    beta: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        inner_lr: NonNegative,
        inner_steps: int,
        eval_steps: int,
        first_order: bool,
        alpha_rate: float,
        beta_rate: float,
    ) -> None:
        super().__init__(loss)
        require_int("algo", inner_steps=inner_steps, eval_steps=eval_steps)
        require_non_negative("algo", alpha_rate=alpha_rate, beta_rate=beta_rate)
        self.net = backbone(outputs=outputs)
        self.alpha = nn.Parameter(exact(float(inner_lr)))
        self.register_buffer("beta", torch.zeros(()))  # set by the first outer step
        self.inner_steps, self.eval_steps = inner_steps, eval_steps
        self.first_order = first_order
        self.alpha_rate, self.beta_rate = alpha_rate, beta_rate

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # Alpha MAML samples nothing
        return descend(self, self.net, support, steps, self.alpha, self.first_order)

    def parameter_groups(self) -> list[dict]:
        theta = partial(HypergradientSGD, beta=self.beta, rate=self.beta_rate)
        return [
            {"name": "theta", "params": list(self.net.parameters()), "optimizer": theta},
            {"name": "alpha", "params": [self.alpha], "optimizer": NonNegativeSGD, "lr": self.alpha_rate},
        ]

    def diagnostics(self) -> dict[str, Tensor]:
        """Both learning rates.

        alpha: the inner learning rate.
        beta: the outer learning rate.
        """
        return {"alpha": self.alpha, "beta": self.beta}


class HypergradientSGD(torch.optim.Optimizer):
    """Gradient descent whose learning rate `beta` (0-dim, changed in place) follows its own hypergradient.

    Args:
        params: theta.
        lr: where beta starts.
        beta: the learning rate; set to `lr` by the first step.
        rate: h_beta.
    """

    def __init__(self, params: Any, lr: float, beta: Tensor, rate: float) -> None:
        super().__init__(params, {"lr": lr})
        self.beta, self.rate = beta, rate

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        del closure  # the outer loop passes none
        (group,) = self.param_groups
        moving = [p for p in group["params"] if p.grad is not None]
        start = group.setdefault("initial_lr", group["lr"])
        if all("previous" in self.state[p] for p in moving):
            agreement = torch.stack([(p.grad * self.state[p]["previous"]).sum() for p in moving]).sum()  # g_t . g_{t-1}
            self.beta.add_(self.rate * agreement).clamp_(min=0)
        else:
            self.beta.fill_(start)
        for p in moving:
            p.sub_(self.beta * (group["lr"] / start) * p.grad)
            self.state[p]["previous"] = p.grad.clone()


class NonNegativeSGD(torch.optim.SGD):
    """Gradient descent of parameters that must not fall below zero."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.clamp_(min=0)
