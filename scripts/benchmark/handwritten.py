"""Outer steps written out by hand for a whole meta-batch: the practical limit that the benchmark measures against.

MAML: every weight has a leading dimension of tasks; linear layers are batched matrix products, convolutions grouped
ones. ANIL and ProtoNet: the images of all tasks go through plain convolutions. Batch norm is one scale and one shift
from `var_mean`, with each task's own statistics. No vmap, no modules, no options: the code that one would write for
one learner on one network, and nothing else.
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
    for index in range(0, len(weights), 2):
        x = torch.baddbmm(weights[index + 1].unsqueeze(1), x, weights[index].transpose(1, 2))
        if index + 2 < len(weights):
            x = x.relu()
    return x


def conv4(weights: Weights, x: Tensor) -> Tensor:
    """Class scores `[T, n, ways]` of images `[T, n, channels, h, w]`: strided blocks, mean over positions, linear."""
    return linear(weights[-2:], blocks(weights[:-2], x).mean((3, 4)))


def pooled(weights: Weights, x: Tensor) -> Tensor:
    """Class scores as `conv4`, of blocks that end in a max pooling and of flattened features (mini-ImageNet)."""
    return linear(weights[-2:], blocks(weights[:-2], x, pool=True).flatten(2))


def linear(weights: Weights, z: Tensor) -> Tensor:
    """`[T, n, out]` of z `[T, n, in]`."""
    return torch.baddbmm(weights[1].unsqueeze(1), z, weights[0].transpose(1, 2))


def blocks(weights: Weights, x: Tensor, pool: bool = False) -> Tensor:
    """Feature maps `[T, n, filters, h, w]` of images: convolution, norm, ReLU; each task has its own kernels."""
    tasks, n = x.shape[:2]
    x = x.transpose(0, 1).flatten(1, 2)  # [n, T*channels, h, w]
    for index in range(0, len(weights), 4):
        kernel, bias, scale, shift = weights[index : index + 4]
        x = F.conv2d(x, kernel.flatten(0, 1), bias.flatten(), stride=1 if pool else 2, padding=1, groups=tasks)
        x = normalized(x.unsqueeze(0), scale.flatten(), shift.flatten()).squeeze(0)
        if pool:
            x = F.max_pool2d(x, 2)
    return x.unflatten(1, (tasks, -1)).transpose(0, 1)


def shared_blocks(weights: Weights, x: Tensor) -> Tensor:
    """Features `[T, n, filters]` of images: strided blocks whose kernels all tasks share, mean over positions."""
    tasks, n = x.shape[:2]
    x = x.flatten(0, 1)
    for index in range(0, len(weights), 4):
        kernel, bias, scale, shift = weights[index : index + 4]
        x = F.conv2d(x, kernel, bias, stride=2, padding=1)
        x = normalized(x.unflatten(0, (tasks, n)), scale, shift).flatten(0, 1)
    return x.mean((2, 3)).unflatten(0, (tasks, n))


def normalized(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Batch norm of x `[T, n, channels, h, w]` with each task's own statistics, and a ReLU."""
    var, mean = torch.var_mean(x, dim=(1, 3, 4), correction=0, keepdim=True)
    scale = scale.view(-1, 1, 1) * torch.rsqrt(var + 1e-5)
    return torch.addcmul(shift.view(-1, 1, 1) - mean * scale, x, scale).relu()


def task_losses(forward: Forward, weights: Weights, x: Tensor, y: Tensor) -> Tensor:
    """Losses `[T]`: mean squared error, or cross-entropy where y are classes `[T, n]`."""
    predictions = forward(weights, x)
    if y.is_floating_point():
        return (predictions - y).square().mean((1, 2))
    return F.cross_entropy(predictions.flatten(0, 1), y.flatten(), reduction="none").view_as(y).mean(1)


def maml_losses(
    forward: Forward,
    parameters: Sequence[nn.Parameter],
    support: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
    inner_lr: float,
    steps: int,
    first_order: bool,
) -> Tensor:
    """Query losses `[T]` after `steps` inner steps."""
    tasks = len(support[0])
    weights = [p.expand(tasks, *p.shape) for p in parameters]
    for _ in range(steps):
        losses = task_losses(forward, weights, *support)
        gradients = torch.autograd.grad(losses.sum(), weights, create_graph=not first_order)
        weights = [w - inner_lr * gradient for w, gradient in zip(weights, gradients, strict=True)]
    return task_losses(forward, weights, *query)


def anil_losses(
    parameters: Sequence[nn.Parameter],
    support: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
    inner_lr: float,
    steps: int,
) -> Tensor:
    """Query losses `[T]` after `steps` inner steps of the last layer; second order."""
    *body, weight, bias = parameters
    tasks = len(support[0])
    z_query, z_support = shared_blocks(body, query[0]), shared_blocks(body, support[0])
    head = [p.expand(tasks, *p.shape) for p in (weight, bias)]
    for _ in range(steps):
        losses = task_losses(linear, head, z_support, support[1])
        gradients = torch.autograd.grad(losses.sum(), head, create_graph=True)
        head = [w - inner_lr * gradient for w, gradient in zip(head, gradients, strict=True)]
    return task_losses(linear, head, z_query, query[1])


def protonet_losses(
    parameters: Sequence[nn.Parameter], support: tuple[Tensor, Tensor], query: tuple[Tensor, Tensor]
) -> Tensor:
    """Query losses `[T]` by squared distances to prototypes; support images are sorted by class, equally many each."""
    n = support[0].shape[1]
    z = shared_blocks(parameters, torch.cat([support[0], query[0]], 1))
    ways = int(query[1].max()) + 1
    prototypes = z[:, :n].unflatten(1, (ways, -1)).mean(2)
    scores = -torch.cdist(z[:, n:], prototypes).square()
    return F.cross_entropy(scores.flatten(0, 1), query[1].flatten(), reduction="none").view_as(query[1]).mean(1)
