"""MAML's outer step written out by hand for a whole meta-batch: the practical limit that benchmark.py measures against.

Every weight has a leading dimension of tasks; linear layers are batched matrix products, convolutions grouped ones,
batch norm is one scale and one shift from `var_mean`. No vmap, no modules, no choices: what one would write who needed
this one learner on this one network, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Weights = Sequence[Tensor]  # each `[T, ...]`
Forward = Callable[[Weights, Tensor], Tensor]


def mlp(weights: Weights, x: Tensor) -> Tensor:
    """Outputs `[T, n, out]` of a network of ReLUs, inputs `[T, n, in]`."""
    for number in range(0, len(weights), 2):
        x = torch.baddbmm(weights[number + 1].unsqueeze(1), x, weights[number].transpose(1, 2))
        if number + 2 < len(weights):
            x = x.relu()
    return x


def conv4(weights: Weights, x: Tensor) -> Tensor:
    """Class scores `[T, n, ways]` of images `[T, n, channels, h, w]`: blocks of strided convolution, norm and ReLU."""
    tasks, n = x.shape[:2]
    x = x.transpose(0, 1).flatten(1, 2)  # [n, T*channels, h, w]
    for number in range(0, len(weights) - 2, 4):
        kernel, bias, scale, shift = weights[number : number + 4]
        x = F.conv2d(x, kernel.flatten(0, 1), bias.flatten(), stride=2, padding=1, groups=tasks)
        var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        scale = scale.flatten() * torch.rsqrt(var + 1e-5)
        shift = shift.flatten() - mean * scale
        x = (x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).relu()
    z = x.mean((2, 3)).view(n, tasks, -1).transpose(0, 1)
    return torch.baddbmm(weights[-1].unsqueeze(1), z, weights[-2].transpose(1, 2))


def task_losses(forward: Forward, weights: Weights, x: Tensor, y: Tensor) -> Tensor:
    """Losses `[T]`: mean squared error, or cross entropy where y are classes `[T, n]`."""
    predicted = forward(weights, x)
    if y.is_floating_point():
        return (predicted - y).square().mean((1, 2))
    return F.cross_entropy(predicted.flatten(0, 1), y.flatten(), reduction="none").view_as(y).mean(1)


def maml_losses(
    forward: Forward,
    parameters: Sequence[nn.Parameter],
    support: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
    inner_lr: float,
    steps: int,
    first_order: bool,
) -> Tensor:
    """Query losses `[T]` after so many inner steps."""
    tasks = len(support[0])
    weights = [p.expand(tasks, *p.shape) for p in parameters]
    for _ in range(steps):
        losses = task_losses(forward, weights, *support)
        slopes = torch.autograd.grad(losses.sum(), weights, create_graph=not first_order)
        weights = [w - inner_lr * slope for w, slope in zip(weights, slopes, strict=True)]
    return task_losses(forward, weights, *query)
