"""T-net and MT-net: a learned metric and a learned subspace for each layer's gradient steps.

Lee, Choi: Gradient-Based Meta-Learning with Learned Layerwise Metric and Subspace, ICML 2018, arXiv 1801.05558.
Official code: github yoonholee/MT-net (maml.py, main.py).

T-net is section 3.1 of the paper, MT-net section 3.2; (a) to (f) are our labels.
Every layer computes, before normalisation and activation
    h = T (W x + b)                                                                                (a)
Inner problem, on the support set D of a task; T stays:
    T-net:   W~ = W - alpha grad_W L(W, T, D)                                                      (b)
    MT-net:  m_j ~ Bernoulli(sigmoid(zeta_j)), drawn once for each task; row j of M is m_j         (c)
             W~ = W - alpha M o grad_W L(W, T, D)                                                  (d)
    b~ likewise; more steps repeat it from W~. A step moves the pre-activation along -T diag(m) T^T grad L: T T^T is a
    metric, m chooses the subspace.
Outer problem, over tasks i with query sets D':
    min_{W, b, T, zeta}  mean_i E_M L(W~_i, T, D'_i)                                               (e)
    zeta's gradient is straight-through: m has the value of 1[zeta + g > 0], g ~ Logistic(0, 1), and the gradient of
    sigmoid((zeta + g) / tau)                                                                      (f)

    symbol    code                      shape / unit
    W, b      net...layer.weight, .bias `W` by name: the weights and biases of all layers
    T         net...transform           [d_out, d_out], starts as the identity; absent in M-net
    zeta      self.logits               `mask=row`: [d_out] a layer, start at 0, for the bias too (MT-net, M-net)
                                        `mask=weight`: one a weight and bias (MT-net-full, M-net-full), start normal
                                        of standard deviation .1 (in a network with convolutions .01), truncated at two
    g         random_inputs             the difference of the official code's two Gumbel draws
    m         m                         of the shape of zeta, 0 or 1
    alpha M   alpha_M                   by name; broadcasts to its parameter
    tau       self.temperature          0-dim
    alpha     self.inner_lr             0-dim
    L         self.loss                 mean over a set's examples; `L(W)` on the support set
    o         *                         element by element

This file has all but (a), which is `layers/transform.py`. Of (e), a task's term is `Learner.meta_loss` (the query loss
after `adapt`), with one draw of M.

Differences from the paper
    - L is a mean over examples, in classification too. The official loss is ways times as large, with MAML's code
      (maml.py says why): its alphas of .4 and .1 on Omniglot and .01 on mini-ImageNet are 2, 2 and .05 here, and its
      clipping of the meta-gradient's entries to 10 is to 10 / 75 for 1 shot and 15 queries. The experiments of the
      paper (`experiment=mtnet/...`) have these values.
    - Batch norm's own scale and shift, where the backbone has them, do not adapt, as in the official code; that has a
      shift but no scale, and eps 1e-3 where here it is 1e-5.
    - The official last layer of the Omniglot network starts normal of standard deviation 1, all other layers by
      Glorot's uniform rule; so do the experiments (`backbone.init=xavier backbone.head_std=1`), not the settings.
    - The official code has no logits for biases in the Omniglot network, where per-weight masks thus fail; here they
      are as those of mini-ImageNet's.
    - Without random inputs (`adapt(support)`) M is its mean, sigmoid(zeta), at every step: of one step, W~ is then the
      mean of W~ over masks. (A threshold at probability 1/2 would not move the units whose zeta is still 0 at all.)
    - Per-weight masks (the code's `use_M` without `share_M`) are drawn at every inner step, as the code does.
    - The initialisation of W is the backbone's (`backbone.init`), and part of the claim: with torch's own, robustness
      at small alpha is lost (REPLICATION.md). Held-out tasks are evaluated with drawn masks too, as in the code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad

from metarun.checks import NonNegative, require_choice, require_int, require_positive
from metarun.layers.transform import transform_layers, transformed
from metarun.learner.learner import Backbone, Learner, count_tasks
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
        mask: `none`, `row` (a unit's or channel's weights move together) or `weight` (each on its own).
        temperature: tau of the straight-through gradient.
        inner_lr: alpha.
        inner_steps: inner steps in training.
        eval_steps: inner steps at which the headline metric is measured.

    Raises:
        ValueError: an unknown mask, steps that are not integers of at least 0, a temperature that is not above 0.
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
        inner_lr: NonNegative,
        inner_steps: int,
        eval_steps: int,
    ) -> None:
        super().__init__(loss)
        require_int("algo", inner_steps=inner_steps, eval_steps=eval_steps)
        require_positive("algo", temperature=temperature)
        require_choice("algo.mask", mask, MASKS)
        self.net = transform_layers(backbone(outputs=outputs), transform)
        self.mask = mask
        self.register_hyperparameter("inner_lr", inner_lr)
        self.register_hyperparameter("temperature", temperature)
        self.inner_steps, self.eval_steps = inner_steps, eval_steps
        self.masked = self._masked()
        self.logits = nn.ParameterList(self._initial_logits())  # zeta, in the order of `masked`

    def _masked(self) -> list[tuple[str, tuple[str, ...], tuple[torch.Size, ...]]]:
        """For each tensor of logits: a name, the parameters that it masks, and their shapes."""
        entries: list[tuple[str, tuple[str, ...], tuple[torch.Size, ...]]] = []
        for name, module in transformed(self.net):
            shapes = {f"{name}.layer.{key}": p.shape for key, p in module.layer.named_parameters()}
            if self.mask == "weight":
                entries += [(key.replace(".layer", ""), (key,), (shape,)) for key, shape in shapes.items()]
            else:
                entries.append((name, tuple(shapes), tuple(shapes.values())))
        return entries

    def _initial_logits(self) -> Iterator[Tensor]:
        if self.mask == "row":
            yield from (torch.zeros(shapes[0][0]) for *_, shapes in self.masked)
        elif self.mask == "weight":  # as the official code, by the kind of the network
            convolutional = any(isinstance(module.layer, nn.Conv2d) for _, module in transformed(self.net))
            spread = 0.01 if convolutional else 0.1
            for *_, ((*shape,),) in self.masked:
                yield nn.init.trunc_normal_(torch.empty(shape), std=spread, a=-2 * spread, b=2 * spread)

    def random_inputs(self, batch: Batch, steps: int, generator: torch.Generator) -> Any:
        """g: `[T, 1, units]` for masks by row, `[T, steps, weights]` for masks by weight, () without masks."""
        if self.mask == "none":
            return ()
        draws = steps if self.mask == "weight" else 1
        shape = (count_tasks(batch), draws, sum(zeta.numel() for zeta in self.logits))
        return torch.rand(shape, device=generator.device, generator=generator).logit(eps=1e-6)

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        def f(theta: dict[str, Tensor]) -> Predictor:
            # The network under theta; batch norm normalises queries as its mode says, with `support` if it needs it.
            return self.functional_predictor(self.net, theta, support)

        def L(W: dict[str, Tensor]) -> Tensor:
            return self.loss(f({**theta, **W})(support.x), support.y)

        theta: dict[str, Tensor] = dict(self.net.named_parameters())  # W, b, T, and what batch norm has of its own
        if self.mask != "weight":  # one mask for all steps
            alpha_M = self.rates_at(random_inputs, 0)
        yield f(theta)
        for step in range(steps):
            if self.mask == "weight":  # a mask for each step
                alpha_M = self.rates_at(random_inputs, step)
            W = {name: theta[name] for name in alpha_M}
            gradient = grad(L)(W)
            W = {name: W[name] - alpha_M[name] * gradient[name] for name in W}  # (b), (d)
            theta = {**theta, **W}
            yield f(theta)

    def rates_at(self, random_inputs: Any, step: int) -> dict[str, Tensor]:
        """alpha M by the name of each weight and bias, of the draw `random_inputs[step]`; of () the mean of M."""
        if self.mask == "none":
            return self.plain_rates()
        return self.masked_rates(random_inputs[step]) if len(random_inputs) else self.mean_rates()

    def plain_rates(self) -> dict[str, Tensor]:
        """alpha by the name of each weight and bias: T-net's, where M is 1."""
        return {name: self.inner_lr for _, names, _ in self.masked for name in names}

    def mean_rates(self) -> dict[str, Tensor]:
        """alpha E[M] by the name of each weight and bias."""
        return self._by_name([zeta.sigmoid() for zeta in self.logits])

    def masked_rates(self, g: Tensor) -> dict[str, Tensor]:
        """alpha M by the name of each weight and bias, for one draw `[units]` (or `[weights]`) of g."""
        masks = []
        pieces = g.split([zeta.numel() for zeta in self.logits])
        for zeta, piece in zip(self.logits, pieces, strict=True):
            score = zeta + piece.view_as(zeta)
            soft = torch.sigmoid(score / self.temperature)  # (f)
            hard = (score > 0).to(soft.dtype)  # (c)
            masks.append((hard - soft).detach() + soft)  # (f): the value of hard, the gradient of soft
        return self._by_name(masks)

    def _by_name(self, masks: list[Tensor]) -> dict[str, Tensor]:
        alpha_M = {}
        for (_, names, shapes), m in zip(self.masked, masks, strict=True):
            for name, shape in zip(names, shapes, strict=True):
                alpha_M[name] = self.inner_lr * m.view(*m.shape, *[1] * (len(shape) - m.dim()))  # row j of M is m_j
        return alpha_M

    def diagnostics(self) -> dict[str, Tensor]:
        """Mean probability that a layer's units move, and the extremes and median of T T^T's spectrum.

        mask/LAYER: mean over the layer's units (or weights) of the probability that an inner step moves them.
        metric/LAYER/largest: largest eigenvalue of T T^T, the factor on the fastest direction; 1 at the start.
        metric/LAYER/median: median eigenvalue.
        metric/LAYER/smallest: smallest eigenvalue.
        """
        values = {}
        for (name, *_), zeta in zip(self.masked, self.logits, strict=False):
            values[f"mask/{name}"] = zeta.sigmoid().mean()
        for name, module in transformed(self.net):
            if module.transform is not None:
                spectrum = torch.linalg.svdvals(module.transform.nan_to_num()).square()  # the loop reports NaN
                values |= {f"metric/{name}/largest": spectrum.max(), f"metric/{name}/smallest": spectrum.min()}
                values[f"metric/{name}/median"] = spectrum.median()
        return values
