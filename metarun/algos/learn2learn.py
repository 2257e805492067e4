"""Reference learners: learn2learn's own classes, task by task, behind our `Learner`.

Arnold, Mahajan, Datta, Bunner, Zarkias: learn2learn: A Library for Meta-Learning Research, 2020,
arXiv 2008.12284. Official code: github learnables/learn2learn (learn2learn/algorithms/maml.py). MAML is Finn,
Abbeel, Levine, ICML 2017, arXiv 1703.03400.

Inner problem:      clone = maml.clone();  S times: clone.adapt(L(clone(x), y)) for (x, y) = D         (eq. 1)
Outer problem:      min_theta  mean_i L(clone_S, D'_i); its gradient flows through clones to theta     (eq. 2)

    symbol   code             shape / unit
    theta    self.net         the backbone's parameters
    alpha    self.inner_lr    0-dim; the same for all parameters and steps
    S        inner_steps      steps in training; `eval_steps` at test
    L        self.loss        mean over a set's examples

Differences from the paper (for these, learn2learn's own loops)
    - Its users write the loop over tasks and call `backward` after each; here the losses of all tasks are
      returned and their sum is differentiated once, which holds the graphs of a whole meta-batch (or chunk).
    - Evaluation never keeps the graph of an inner step, whatever `first_order` says.

They exist to be compared with: `algo=maml` is the same algorithm, faster. Not for `torch.compile`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from metarun.algos.learner import Backbone, Learner, Predictor, require_counts
from metarun.tasks.task import Examples, TaskLoss


class Learn2LearnMAML(Learner):
    """`l2l.algorithms.MAML`; constructor and weights (`state_dict`) are those of `metarun.algos.maml.MAML`.

    Args:
        backbone: makes the network, `backbone(outputs=...)`.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        inner_lr: alpha.
        inner_steps: S in training.
        eval_steps: steps at which the headline is measured.
        first_order: drop the derivative of the inner gradient.

    Raises:
        ValueError: steps that are no whole number of at least zero.
    """

    vectorized = False
    inner_lr: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        inner_lr: float,
        inner_steps: int,
        eval_steps: int,
        first_order: bool,
    ) -> None:
        super().__init__(loss)
        require_counts(inner_steps=inner_steps, eval_steps=eval_steps)
        self.net = backbone(outputs=outputs)
        self.number("inner_lr", inner_lr)
        self.inner_steps, self.eval_steps = inner_steps, eval_steps
        self.first_order = first_order

    def trajectory(self, support: Examples, steps: int, noise: Any = ()) -> Iterator[Predictor]:
        from learn2learn.algorithms import MAML  # takes seconds to import

        del noise  # draws nothing
        keep_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            clone = MAML(self.net, lr=self.inner_lr, first_order=self.first_order or not keep_graph).clone()
        yield self._predictor(clone, support)
        for _ in range(steps):
            with torch.enable_grad():  # evaluation switches gradients off; the inner problem needs them
                clone.adapt(self.loss(clone(support.x), support.y))  # eq. 1
            yield self._predictor(clone, support)

    def _predictor(self, clone: torch.nn.Module, support: Examples) -> Predictor:
        """The network under the clone's weights of now: `adapt` swaps the clone's tensors for new ones."""
        weights: dict[str, Tensor] = {name.removeprefix("module."): p for name, p in clone.named_parameters()}
        return self.network_predictor(self.net, weights, support)
