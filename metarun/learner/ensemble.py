"""Several weights of one network at once: what learners that predict by samples or particles share.

Weights are the network's parameters by name, each stacked `[M, ...]`; row m of all of them is one network.

    log p(D | w) = sum over D of  log N(y; f(x; w), variance)  in a regression, else  log softmax(f(x; w))_y     (nats)

Differences from the paper: stated by the algorithms that use it; this is no algorithm of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import pi
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

from metarun.layers.norm import batch_norms
from metarun.learner.learner import Learner
from metarun.learner.prediction import Predictor, Samples
from metarun.tasks import Examples

Weights = dict[str, Tensor]


def log_likelihood(prediction: Tensor, y: Tensor, variance: Tensor) -> Tensor:
    """log p(y | prediction), 0-dim, summed over examples; `variance` (0-dim) is of values, classes have no use for it.

    Args:
        prediction: `[n, d]` values, or `[n, ways]` class scores.
        y: `[n, d]`, or `[n]` class indices.
        variance: of the noise about the values.
    """
    if not y.is_floating_point():
        return -F.cross_entropy(prediction, y, reduction="sum")
    return -0.5 * ((y - prediction).square() / variance + (2 * pi * variance).log()).sum()


def predict_by_all(
    learner: Learner, net: nn.Module, weights: Weights, support: Examples, variance: Tensor | None = None
) -> Predictor:
    """A predictor of `Samples [M, n, d]`, one of each network; `variance` is theirs, as in `Samples`."""

    def predict(x: Tensor) -> Samples:
        each = vmap(lambda own: learner.functional_predictor(net, own, support)(x))
        return Samples(cast(Tensor, each(weights)), variance)

    return predict


def descend_all(
    learner: Learner, net: nn.Module, weights: Weights, support: Examples, steps: int, rate: Tensor, first_order: bool
) -> Iterator[Weights]:
    """Weights after 0, 1, ..., `steps` gradient steps on the task loss of the support set, each network by itself.

    Args:
        learner: whose task loss and whose treatment of queries (`network_predictor`) apply.
        net: the network; its own parameters are not used.
        weights: where it starts.
        support: `x [n, ...]` and `y` as in `Examples`.
        steps: how many.
        rate: 0-dim, times the gradient.
        first_order: take the gradient for a constant.
    """

    def support_loss(own: Weights, y: Tensor) -> Tensor:
        return learner.loss(learner.functional_predictor(net, own, support)(support.x), y)

    count = len(next(iter(weights.values())))
    yield weights
    for _ in range(steps):
        at = constants(weights) if first_order else weights
        gradient = vmap(grad(support_loss))(at, for_each(count, support.y))
        weights = {name: w - rate * gradient[name] for name, w in weights.items()}
        yield weights


def for_each(count: int, y: Tensor) -> Tensor:
    """y once for each of `count` networks, `[M, ...]`: squared error under two vmaps must be mapped over by both."""
    return y.expand(count, *y.shape)


def constants(weights: Weights) -> Weights:
    """The same weights, constants to autograd."""
    return {name: w.detach() for name, w in weights.items()}


def stack_parameters(nets: list[nn.Module]) -> nn.Module:
    """The first of the networks, its parameters now those of all, `[M, ...]`; it can be called with one's only."""
    first, *_ = nets
    for path, module in first.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            others = [net.get_submodule(path).get_parameter(name) for net in nets]
            stacked = torch.stack([p.detach() for p in others])
            module.register_parameter(name, nn.Parameter(stacked, requires_grad=parameter.requires_grad))
    return first


def refuse_running_norms(net: nn.Module, algo: str) -> None:
    """Raises ValueError where batch norms keep running statistics, which would be those of one of the networks."""
    if any(norm.mode == "running" for norm in batch_norms(net)):
        raise ValueError(f"backbone.norm must not be running for algo={algo}, which has several weights of one network")
