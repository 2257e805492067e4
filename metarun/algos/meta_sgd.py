"""Meta-SGD: the inner learning rate of every weight is learned, its sign included.

Li, Zhou, Chen, Li: Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, 2017, arXiv 1707.09835. No official
code is known.

Inner problem, one step on the support set D:     theta' = theta - alpha o grad L(theta, D)              (eq. 4)
Outer problem, over tasks with query sets D':     min_{theta, alpha}  mean_i L(theta'(D_i), D'_i)        (eq. 5)

    symbol   code             shape / unit
    theta    self.net         the backbone's parameters
    alpha    self.rates       one tensor of each parameter's shape; any sign
    L        self.loss        mean over a set's examples
    o                         element by element

Differences from the paper
    - The range that alpha starts from (`initial_rates`) is ours to choose; the paper draws alpha at random.
    - More than one step (`inner_steps`, `eval_steps`, the test's curve) takes the same alpha again. The paper takes
      one; a learner trained for one step may diverge after more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from metarun.learner.gradient_descent import descend
from metarun.learner.learner import Backbone, Learner, require_counts
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss


class MetaSGD(Learner):
    """Learns an initialisation, and for each of its weights a learning rate and a direction.

    Args:
        backbone: makes the network, `backbone(outputs=...)`.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        initial_rates: lowest and highest of the uniform range that alpha starts in.
        inner_steps: steps in training; the paper's is 1.
        eval_steps: steps at which the headline is measured.

    Raises:
        ValueError: steps that are no counts, or a range that is not (lowest, highest).
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
        require_counts(inner_steps=inner_steps, eval_steps=eval_steps)
        self.net = backbone(outputs=outputs)
        self.rates = draw_rates(self.net, initial_rates)
        self.inner_steps, self.eval_steps = inner_steps, eval_steps

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # draws nothing
        return descend(self, self.net, support, steps, rates_by_name(self.net, self.rates))  # eq. 4

    def diagnostics(self) -> dict[str, Tensor]:
        """Mean of alpha for each parameter, and the share of all rates that are negative."""
        flat = torch.cat([rate.flatten() for rate in self.rates])
        means = {f"rate/{name}": rate.mean() for name, rate in rates_by_name(self.net, self.rates).items()}
        return {**means, "rate/negative": (flat < 0).to(flat.dtype).mean()}


def draw_rates(net: nn.Module, initial_rates: tuple[float, float]) -> nn.ParameterList:
    """alpha for each of a network's parameters, of its shape, uniform in a range.

    A list, in the order of the parameters: their names hold dots, which a ParameterDict refuses.

    Raises:
        ValueError: a range that is not (lowest, highest).
    """
    if len(initial_rates) != 2 or not initial_rates[0] <= initial_rates[1]:
        raise ValueError(f"algo.initial_rates must be two numbers, the lowest first; got {list(initial_rates)}")
    return nn.ParameterList(torch.empty_like(p).uniform_(*initial_rates) for p in net.parameters())


def rates_by_name(net: nn.Module, rates: nn.ParameterList) -> dict[str, Tensor]:
    """alpha by the name of its parameter."""
    return dict(zip((name for name, _ in net.named_parameters()), rates, strict=True))
