"""T-net and MT-net: a learned metric and a learned subspace for each layer's gradient steps.

Lee, Choi: Gradient-Based Meta-Learning with Learned Layerwise Metric and Subspace, ICML 2018, arXiv 1801.05558.
Official code: github yoonholee/MT-net (maml.py, main.py).

Every layer computes h = T (W x + b), then normalisation and activation.
Inner problem, on the support set D, T fixed:     W~ = W - alpha M o grad_W L(W, T, D);  b~ likewise
  T-net: M = 1.  MT-net: row j of M is m_j, 0 or 1, with P(m_j = 1) = sigmoid(zeta_j), drawn once for each task.
  A step moves the pre-activation along -T diag(m) T^T grad L: T T^T is a metric, m chooses the subspace.
Outer problem, over tasks with query sets D':     min_{W, b, T, zeta}  mean_i E_M L(W~_i, T, D'_i)
  The gradient goes straight through m's threshold to its soft version sigmoid((zeta + g) / tau), g logistic.

    symbol   code                      shape / unit
    W, b     net...layer.weight, .bias
    T        net...transform           [d_out, d_out], starts as the identity; absent in M-net
    zeta     logits                    `mask=row`: [d_out] a layer, start at 0, the bias's too (MT-net, M-net)
                                       `mask=weight`: one a weight and bias (MT-net-full, M-net-full)
    g        noise                     Logistic(0, 1): the difference of the official code's two Gumbel draws
    tau      temperature               0-dim
    alpha    self.inner_lr             0-dim

Differences from the paper
    - Batch norm's own scale and shift, where the backbone has them, follow its paper's code: they do not adapt.
    - Per-weight masks (the code's `use_M` without `share_M`) are drawn at every inner step, as the code does.
    - The initialisation of W is the backbone's (`backbone.init`), and part of the claim: with torch's own, robustness
      at small alpha is lost (REPLICATION.md). Held-out tasks are judged with drawn masks too, as in the code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from metarun.layers.transform import transform_layers, transformed
from metarun.learner.gradient_descent import descend
from metarun.learner.learner import Backbone, Learner, count_tasks, require_counts, require_positive
from metarun.learner.prediction import Predictor
from metarun.tasks import Batch, Examples, TaskLoss

MASKS = ("none", "row", "weight")


class MTNet(Learner):
    """T-net (`transform`, no mask), MT-net (both), M-net (mask only).

    Args:
        backbone: makes the network, `backbone(outputs=...)`: any of linear and convolution layers.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        transform: whether layers have a T.
        mask: `none`, `row` (a unit's or channel's weights move together) or `weight` (each for itself).
        temperature: tau of the straight-through gradient.
        inner_lr: alpha.
        inner_steps: steps in training.
        eval_steps: steps at which the headline is measured.

    Raises:
        ValueError: an unknown mask, steps that are no counts, a temperature that is not above 0.
    """

    inner_lr: Tensor
    temperature: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        transform: bool,
        mask: str,
        temperature: float,
        inner_lr: float,
        inner_steps: int,
        eval_steps: int,
    ) -> None:
        super().__init__(loss)
        require_counts(inner_steps=inner_steps, eval_steps=eval_steps)
        require_positive(temperature=temperature)
        if mask not in MASKS:
            raise ValueError(f"algo.mask must be one of {', '.join(MASKS)}; got {mask!r}")
        self.net = transform_layers(backbone(outputs=outputs), transform)
        self.mask = mask
        self.register_hyperparameter("inner_lr", inner_lr)
        self.register_hyperparameter("temperature", temperature)
        self.inner_steps, self.eval_steps = inner_steps, eval_steps
        self.masked = self._masked()
        self.logits = nn.ParameterList(self._initial_logits())  # zeta, in the order of `masked`

    def _masked(self) -> list[tuple[str, tuple[str, ...], tuple[torch.Size, ...]]]:
        """For each vector of logits: a name, the parameters that it masks, and their shapes."""
        entries: list[tuple[str, tuple[str, ...], tuple[torch.Size, ...]]] = []
        for name, module in transformed(self.net):
            here = {f"{name}.layer.{key}": p.shape for key, p in module.layer.named_parameters()}
            if self.mask == "weight":
                entries += [(key.replace(".layer", ""), (key,), (shape,)) for key, shape in here.items()]
            else:
                entries.append((name, tuple(here), tuple(here.values())))
        return entries

    def _initial_logits(self) -> Iterator[Tensor]:
        if self.mask == "row":
            yield from (torch.zeros(shapes[0][0]) for *_, shapes in self.masked)
        elif self.mask == "weight":  # as the official code: 0.1 in linear layers, 0.01 in convolutions
            for *_, ((*shape,),) in self.masked:
                spread = 0.01 if len(shape) == 4 else 0.1
                yield nn.init.trunc_normal_(torch.empty(shape), std=spread, a=-2 * spread, b=2 * spread)

    def random_inputs(self, batch: Batch, steps: int, generator: torch.Generator) -> Any:
        """Logistic draws of all masked units, `[T, 1, units]`, or at each step, `[T, steps, weights]`; () unmasked."""
        if self.mask == "none":
            return ()
        draws = steps if self.mask == "weight" else 1
        shape = (count_tasks(batch), draws, sum(zeta.numel() for zeta in self.logits))
        return torch.rand(shape, device=generator.device, generator=generator).logit(eps=1e-6)

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        if self.mask == "none":
            moving = (key for _, keys, _ in self.masked for key in keys)
            return descend(self, self.net, support, steps, dict.fromkeys(moving, self.inner_lr))
        if self.mask == "row":  # drawn once, for all steps
            return descend(self, self.net, support, steps, self._rates(random_inputs[0]))
        return descend(self, self.net, support, steps, lambda step: self._rates(random_inputs[step]))

    def _rates(self, random_inputs: Tensor) -> dict[str, Tensor]:
        """alpha M: rates by parameter, of one draw `[units]`."""
        rates = {}
        pieces = random_inputs.split([zeta.numel() for zeta in self.logits])
        for (_, keys, shapes), zeta, g in zip(self.masked, self.logits, pieces, strict=True):
            score = zeta + g.view_as(zeta)
            soft = torch.sigmoid(score / self.temperature)
            hard = (score > 0).to(soft.dtype)
            m = (hard - soft).detach() + soft  # value hard, gradient soft's
            for key, shape in zip(keys, shapes, strict=True):
                rates[key] = self.inner_lr * m.view(*m.shape, *[1] * (len(shape) - m.dim()))
        return rates

    def diagnostics(self) -> dict[str, Tensor]:
        """Mean probability that a layer's units move, and the extremes and median of T T^T's spectrum."""
        told = {}
        for (name, *_), zeta in zip(self.masked, self.logits, strict=False):
            told[f"mask/{name}"] = zeta.sigmoid().mean()
        for name, module in transformed(self.net):
            if module.transform is not None:
                spectrum = torch.linalg.svdvals(module.transform.nan_to_num()).square()  # the loop reports NaN
                told |= {f"metric/{name}/largest": spectrum.max(), f"metric/{name}/smallest": spectrum.min()}
                told[f"metric/{name}/median"] = spectrum.median()
        return told
