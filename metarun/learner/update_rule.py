"""The base class of learned and hand-made optimizers: on each task an update rule trains a network from random weights.

Inner problem, on the support set D, theta_0 ~ N(mu, s^2):
    theta_{t+1} = theta_t + g_t,    (g_t, h_{t+1}) = m(grad f_t(theta_t), h_t),    f_t = L on a mini-batch B_t of D
Outer problem: stated by the algorithms, which say what m is, and whether it is learned.

    symbol   code                     shape / unit
    theta    theta                    [P], all coordinates of the network, in the order of its parameters
    mu       self.mean                [P], 1 for the scales of normalisation layers, else 0
    s        self.init_std            0-dim
    theta_0  random_inputs["start"]   [T, P], a standard normal sample z; theta_0 = mu + s z
    B_t      random_inputs["rows"]    [T, steps + 1, |B|], indices, one shuffle of D after the other; (): all of D
    g, h     update                   [P], and the rule's state of each coordinate, new for each task

All learners of this kind draw the same weights and mini-batches for the same tasks. The network is not learned: its
weights are buffers that are not saved, so that an optimizer can be tested on another network than it was trained on
(`run.evaluate=PATH backbone.hidden=[40]`). Without random inputs theta_0 is always the same, and every step uses all
of D.

Differences from the paper: stated by the algorithms that use it; this is not an algorithm of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad_and_value

from metarun.checks import require_int, require_int_or_none, require_positive
from metarun.learner.gradient_descent import mini_batches, named_pieces
from metarun.learner.learner import Backbone, Learner
from metarun.learner.prediction import Predictor
from metarun.sampling import stream_generator
from metarun.tasks import Batch, Examples, Task, TaskLoss


class UpdateRule(Learner):
    """Trains a network on each task from random weights.

    Args:
        backbone: makes the network, `backbone(outputs=...)`.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        init_std: s.
        batch: |B|, examples of a step; None: all.
        eval_steps: steps after which the headline metric is measured.

    Raises:
        ValueError: an argument out of range.
    """

    init_std: Tensor
    mean: Tensor
    start: Tensor

    def __init__(
        self, backbone: Backbone, outputs: int, loss: TaskLoss, init_std: float, batch: int | None, eval_steps: int
    ) -> None:
        super().__init__(loss)
        require_int("algo", eval_steps=eval_steps)
        require_positive("algo", init_std=init_std)
        require_int_or_none("algo", minimum=1, batch=batch)
        self.net = backbone(outputs=outputs)
        self.shapes = {name: p.shape for name, p in self.net.named_parameters()}
        scales = [(p == 1).all().expand(p.numel()) for p in self.net.parameters()]
        _parameters_to_buffers(self.net)
        self.register_hyperparameter("init_std", init_std)
        self.register_buffer("mean", torch.cat(scales).to(self.progress.dtype), persistent=False)
        start = torch.randn(len(self.mean), generator=stream_generator("cpu", "update rule"))
        self.register_buffer("start", start, persistent=False)
        self.batch, self.eval_steps = batch, eval_steps

    @abstractmethod
    def begin(self, theta: Tensor) -> Any:
        """h_0, the rule's state before its first step."""

    @abstractmethod
    def update(self, gradient: Tensor, state: Any) -> tuple[Tensor, Any]:
        """m: compute the step g_t `[P]` and the state h_{t+1} from a gradient `[P]` and the state h_t."""

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        theta = self.first(random_inputs)
        state = self.begin(theta)
        yield self.predictor(theta, support)
        for step in range(steps):
            change, state = self.update(self.slope(theta, support, step, random_inputs)[0], state)
            theta = theta + change
            yield self.predictor(theta, support)

    def random_inputs(self, batch: Batch, steps: int, generator: torch.Generator) -> dict[str, Any]:
        assert isinstance(batch, Task)
        tasks, n = batch.support.y.shape[:2]
        start = torch.randn(tasks, len(self.start), generator=generator, device=generator.device)
        return {"start": start, "rows": mini_batches(tasks, n, steps + 1, self.batch, generator)}

    def first(self, random_inputs: Any) -> Tensor:
        """theta_0, `[P]`."""
        return self.mean + self.init_std * (random_inputs["start"] if random_inputs else self.start)

    def slope(self, theta: Tensor, support: Examples, step: int, random_inputs: Any) -> tuple[Tensor, Tensor]:
        """grad f_t(theta) `[P]` and f_t(theta), both constant to autograd."""
        rows = random_inputs["rows"] if random_inputs else ()
        batch = Examples(*(leaf[rows[step]] for leaf in support)) if len(rows) else support

        def f(theta: Tensor) -> Tensor:
            return self.loss(self.predictor(theta, batch)(batch.x), batch.y)

        return grad_and_value(f)(theta.detach())

    def predictor(self, theta: Tensor, support: Examples) -> Predictor:
        """The predictor of the network with coordinates theta."""
        return self.functional_predictor(self.net, named_pieces(theta, self.shapes), support)


def _parameters_to_buffers(net: nn.Module) -> None:
    """Turn a network's parameters into buffers that are not saved: they follow it to a device, but are not trained."""
    for module in net.modules():
        for name, p in list(module._parameters.items()):
            del module._parameters[name]
            module.register_buffer(name, None if p is None else p.detach(), persistent=False)
