"""Meta-SGD: the inner learning rate of every weight is learned, its sign included.

Li, Zhou, Chen, Li: Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, 2017, arXiv 1707.09835. No official
code is known.

Inner problem, one step on the support set train(T) of a task T:
    theta' = theta - alpha o grad L_train(T)(theta)                                                (eq. 2)
Outer problem, over tasks T with query sets test(T):
    min_{theta, alpha}  E_T L_test(T)(theta')                                                      (eq. 3)

    symbol             code             shape / unit
    theta              self.net         the backbone's parameters; `theta` by name
    alpha              self.rates       one tensor of each parameter's shape, any sign; `alpha` by name
    L_T                self.loss        mean over a set's examples; `L(theta)` on the support set
    train(T), test(T)  support, query   `x [n, ...]` and `y`
    o                  *                element by element

This file has the inner problem. Of eq. 3, a task's term is `Learner.meta_loss` (the query loss after `adapt`).

Differences from the paper
    - The uniform range that alpha starts in (`initial_rates`) is ours; the paper draws alpha at random.
    - More than one step (`inner_steps`, `eval_steps`, the test's curve) applies eq. 2 again with the same alpha. The
      paper takes one step; a learner trained for one may diverge after more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import grad

from metarun.checks import require_int, require_range
from metarun.learner.learner import Backbone, Learner
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss


class MetaSGD(Learner):
    """Learns an initialisation, and for each of its weights a learning rate and a direction.

    Args:
        backbone: makes the network, `backbone(outputs=...)`.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        initial_rates: lowest and highest of the uniform range that alpha starts in.
        inner_steps: inner steps in training; 1 in the paper.
        eval_steps: inner steps at which the headline metric is measured.

    Raises:
        ValueError: steps that are not integers of at least 0, or a range that is not [lowest, highest].
    """

    init_only_args = ("initial_rates",)

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        initial_rates: tuple[float, float],
        inner_steps: int,
        eval_steps: int,
    ) -> None:
        super().__init__(loss)
        require_int("algo", inner_steps=inner_steps, eval_steps=eval_steps)
        self.net = backbone(outputs=outputs)
        self.rates = draw_rates(self.net, initial_rates)
        start_equal_rates_exactly(self, initial_rates)
        self.inner_steps, self.eval_steps = inner_steps, eval_steps

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # Meta-SGD samples nothing
        alpha = rates_by_name(self.net, self.rates)

        def f(theta: dict[str, Tensor]) -> Predictor:
            # The network under theta; batch norm normalises queries as its mode says, with `support` if it needs it.
            return self.functional_predictor(self.net, theta, support)

        def L(theta: dict[str, Tensor]) -> Tensor:
            return self.loss(f(theta)(support.x), support.y)

        theta: dict[str, Tensor] = dict(self.net.named_parameters())
        yield f(theta)
        for _ in range(steps):
            gradient = grad(L)(theta)
            theta = {name: theta[name] - alpha[name] * gradient[name] for name in theta}  # eq. 2
            yield f(theta)

    def diagnostics(self) -> dict[str, Tensor]:
        """Mean of alpha for each parameter, and the share of all rates that are negative.

        rate/PARAMETER: mean over the parameter's entries of their learned rate.
        rate/negative: share of all rates that are below 0, which move a weight uphill.
        """
        flat = torch.cat([rate.flatten() for rate in self.rates])
        means = {f"rate/{name}": rate.mean() for name, rate in rates_by_name(self.net, self.rates).items()}
        return {**means, "rate/negative": (flat < 0).to(flat.dtype).mean()}


def draw_rates(net: nn.Module, initial_rates: tuple[float, float]) -> nn.ParameterList:
    """Draw alpha for each parameter of a network, in its shape, uniformly from a range.

    Returns:
        A list in the order of the parameters: their names contain dots, which a ParameterDict refuses.

    Raises:
        ValueError: a range that is not [lowest, highest].
    """
    require_range("algo.initial_rates", initial_rates)
    return nn.ParameterList(torch.empty_like(p).uniform_(*initial_rates) for p in net.parameters())


def start_equal_rates_exactly(learner: Learner, initial_rates: tuple[float, float]) -> None:
    """In float64, rates that all start from one number start from it unrounded (`learner.rates`)."""
    lowest, highest = initial_rates
    for number in range(len(cast(nn.ParameterList, learner.rates)) if lowest == highest else 0):
        learner.start_exactly(f"rates.{number}", lowest)


def rates_by_name(net: nn.Module, rates: nn.ParameterList) -> dict[str, Tensor]:
    """alpha by the name of its parameter."""
    return dict(zip((name for name, _ in net.named_parameters()), rates, strict=True))
