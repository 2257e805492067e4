"""Several weights of one network at once, for learners that predict by samples or particles.

Weights are the network's parameters by name, each stacked `[M, ...]`: row m of all of them is one network.

    log p(D | w) = sum over D of  log N(y; f(x; w), variance)  in a regression, else  log softmax(f(x; w))_y     (nats)

Differences from the paper: stated by the algorithms that use it; this is not an algorithm of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import pi
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

from metarun.learner.learner import Learner
from metarun.learner.prediction import Predictor, Samples
from metarun.tasks import Examples

Weights = dict[str, Tensor]


def log_likelihood(prediction: Tensor, y: Tensor, variance: Tensor) -> Tensor:
    """log p(y | prediction), 0-dim, summed over examples.

    Args:
        prediction: targets `[n, d]`, or class scores `[n, ways]`.
        y: targets `[n, d]`, or class indices `[n]`.
        variance: of the targets' noise, 0-dim; not used for classes.
    """
    if not y.is_floating_point():
        return -F.cross_entropy(prediction, y, reduction="sum")
    return -0.5 * ((y - prediction).square() / variance + (2 * pi * variance).log()).sum()


def predict_by_all(
    learner: Learner, net: nn.Module, weights: Weights, support: Examples, variance: Tensor | None = None
) -> Predictor:
    """Make a predictor of `Samples [M, n, d]`, one from each network.

    Args:
        learner: its `functional_predictor` evaluates the network.
        net: the network; its own parameters are not used.
        weights: of the M networks.
        support: the support set.
        variance: as in `Samples`.
    """

    def predict(x: Tensor) -> Samples:
        predictions = vmap(lambda params: learner.functional_predictor(net, params, support)(x))
        return Samples(cast(Tensor, predictions(weights)), variance)

    return predict


def descend_all(
    learner: Learner, net: nn.Module, weights: Weights, support: Examples, steps: int, rate: Tensor, first_order: bool
) -> Iterator[Weights]:
    """Yield the weights after 0, 1, ..., `steps` gradient steps on the support set's task loss, for each network alone.

    Args:
        learner: provides the task loss and `functional_predictor`.
        net: the network; its own parameters are not used.
        weights: the initial weights.
        support: `x [n, ...]` and `y` as in `Examples`.
        steps: the number of steps.
        rate: learning rate, 0-dim.
        first_order: treat the gradient as a constant.
    """

    def support_loss(params: Weights, y: Tensor) -> Tensor:
        return learner.loss(learner.functional_predictor(net, params, support)(support.x), y)

    count = len(next(iter(weights.values())))
    yield weights
    for _ in range(steps):
        at = constants(weights) if first_order else weights
        gradient = vmap(grad(support_loss))(at, for_each(count, support.y))
        weights = {name: w - rate * gradient[name] for name, w in weights.items()}
        yield weights


def for_each(count: int, y: Tensor) -> Tensor:
    """Repeat y for each of `count` networks, `[M, ...]`: squared error under two vmaps must be mapped over by both."""
    return y.expand(count, *y.shape)


def constants(weights: Weights) -> Weights:
    """The same weights, constant to autograd."""
    return {name: w.detach() for name, w in weights.items()}


def stack_parameters(nets: list[nn.Module]) -> nn.Module:
    """Replace the parameters of the first network by those of all, stacked `[M, ...]`, and return it.

    It can then be called only by `functional_call` with the parameters of one network.
    """
    first, *_ = nets
    for path, module in first.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            others = [net.get_submodule(path).get_parameter(name) for net in nets]
            stacked = torch.stack([p.detach() for p in others])
            module.register_parameter(name, nn.Parameter(stacked, requires_grad=parameter.requires_grad))
    return first
