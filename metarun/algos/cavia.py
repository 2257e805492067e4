"""CAVIA, fast context adaptation.

Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson: Fast Context Adaptation via Meta-Learning, ICML 2019, arXiv 1810.03642.
Official code: github lmzintgraf/cavia (regression/cavia.py, cavia_model.py, classification/models.py).

Inner problem, S steps on the support set D that move the context alone:
    phi_0 = 0,    phi_{k+1} = phi_k - alpha grad_phi L(phi_k, theta; D)
Outer problem, over tasks with query sets D', over the shared parameters alone:
    min_theta  mean_i L(phi_S(theta, D_i), theta; D'_i)

A fully connected network receives phi as additional inputs: its first layer sees [x, phi]. A convolutional network is
modulated by it (FiLM): a linear layer, part of theta, maps phi to a scale and a shift of each channel of the features h
of block `film_block`, after the norm and before the ReLU:
    [gamma, beta] = A phi + b,    h <- gamma h + beta

    symbol   code                     shape / unit
    theta    self.net                 the backbone's parameters, including those of the layer that receives phi
    phi      ContextInput.phi,        [context]; a buffer of zeros, replaced by each task's own phi
             Film.phi
    A, b     Film.film                weight [2 channels, context] and bias [2 channels]
    alpha    self.inner_lr            0-dim
    S        inner_steps              steps in training; `eval_steps` at test
    L        self.loss                mean over a set's examples

Differences from the paper
    - The official code clips each task's meta-gradient to +-10; `optimizer.max_grad_value` clips their mean.
    - The official code normalises, pools, then applies FiLM; here FiLM comes before pooling. In ResNet-12 it follows a
      whole block.
    - The layer that receives phi is initialised as torch's linear layers are, regardless of `backbone.init`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad

from metarun.checks import NonNegative, require_int
from metarun.learner.learner import Backbone, Learner
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss


class ContextInput(nn.Module):
    """A linear layer on [x, phi]: `x [n, width]` to `[n, outputs]`."""

    phi: Tensor

    def __init__(self, width: int, outputs: int, context: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width + context, outputs)
        self.register_buffer("phi", torch.zeros(context), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.cat([x, self.phi.expand(len(x), -1)], 1))


class Film(nn.Module):
    """A layer followed by a scale and a shift of each of its channels, both linear in phi."""

    phi: Tensor

    def __init__(self, layer: nn.Module, channels: int, context: int) -> None:
        super().__init__()
        self.layer, self.film = layer, nn.Linear(context, 2 * channels)
        self.register_buffer("phi", torch.zeros(context), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        gamma, beta = self.film(self.phi).view(2, -1, 1, 1)
        return gamma * self.layer(x) + beta


class CAVIA(Learner):
    """Learns a network that adapts to a task through a few context parameters alone.

    Args:
        backbone: makes the network, `backbone(outputs=...)`.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        inner_lr: alpha.
        inner_steps: S in training.
        eval_steps: steps at which the headline is measured.
        context: dimension of phi; 0: nothing adapts.
        film_block: which block of a convolutional network receives phi, from 1.
        first_order: drop the derivative of the inner gradient.

    Raises:
        ValueError: a count that is not a non-negative integer, or a block that the backbone does not have.
    """

    inner_lr: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        inner_lr: NonNegative,
        inner_steps: int,
        eval_steps: int,
        context: int,
        film_block: int,
        first_order: bool,
    ) -> None:
        super().__init__(loss)
        require_int("algo", inner_steps=inner_steps, eval_steps=eval_steps, context=context)
        self.net = backbone(outputs=outputs)
        self.phi_name = _insert_context_layer(self.net, context, film_block) + ".phi"
        self.register_hyperparameter("inner_lr", inner_lr)
        self.inner_steps, self.eval_steps = inner_steps, eval_steps
        self.first_order = first_order

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # draws nothing
        theta = dict(self.net.named_parameters())
        inner_theta = {name: p.detach() for name, p in theta.items()} if self.first_order else theta

        def support_loss(phi: Tensor) -> Tensor:
            predict = self.functional_predictor(self.net, {**inner_theta, self.phi_name: phi}, support)
            return self.loss(predict(support.x), support.y)

        phi = self.net.get_buffer(self.phi_name)
        yield self.functional_predictor(self.net, {**theta, self.phi_name: phi}, support)
        for _ in range(steps):
            phi = phi - self.inner_lr * grad(support_loss)(phi)
            yield self.functional_predictor(self.net, {**theta, self.phi_name: phi}, support)


def _insert_context_layer(net: nn.Module, context: int, film_block: int) -> str:
    """Replace one of the network's layers by one that receives phi, and return its name."""
    if not hasattr(net, "blocks"):
        name, layer = next((name, m) for name, m in net.named_modules() if isinstance(m, nn.Linear))
        net.set_submodule(name, ContextInput(layer.in_features, layer.out_features, context))
        return name
    blocks, channels = net.get_submodule("blocks"), 0
    for name, module in blocks.named_children():
        channels = next((m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d)), channels)
        if name in (f"norm{film_block}", str(film_block - 1)):  # of conv4; of resnet12
            blocks.set_submodule(name, Film(module, channels, context))
            return f"blocks.{name}"
    raise ValueError(f"algo.film_block must be the number of a block of the backbone, from 1; got {film_block!r}")
