"""Reference learners: learn2learn's own classes as a `Learner`, one task at a time.

Arnold, Mahajan, Datta, Bunner, Zarkias: learn2learn: A Library for Meta-Learning Research, 2020,
arXiv 2008.12284. Official code: github learnables/learn2learn (learn2learn/algorithms). MAML is Finn, Abbeel,
Levine, ICML 2017, arXiv 1703.03400; ANIL is Raghu, Raghu, Bengio, Vinyals, ICLR 2020, arXiv 1909.09157. Learners with
a learned update are in updates.py.

Inner problem:      clone = algorithm.clone();  S times: clone.adapt(L(clone(x), y)) for (x, y) = D
Outer problem:      min_theta  mean_i L(clone_S, D'_i); its gradient flows through the clones to theta

    symbol   code             shape / unit
    theta    self.net         the backbone's parameters
    alpha    self.inner_lr    0-dim; the same for all parameters and steps
    S        inner_steps      steps in training; `eval_steps` at test
    L        self.loss        mean over a set's examples
    D, D'    support, query   x [n, ...], y

Differences from the paper (here: from the loops of learn2learn's examples)
    - Its users write the loop over tasks and call `backward` after each; here the losses of all tasks are returned and
      their sum is differentiated once, which holds the graphs of a whole meta-batch (or task micro-batch) in memory.
    - Evaluation never keeps the graph of an inner step, whatever `first_order` says.
    - Its ANIL example embeds support and query images in one batch; here batch norm sees one or the other.

For comparison only: `algo=maml` is the same algorithm, faster. They do not work with `torch.compile`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metarun.algos.learn2learn import require_learn2learn
from metarun.checks import NonNegative, require_int
from metarun.layers.norm import MODES
from metarun.learner.learner import Backbone, Learner
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, TaskLoss


class Learn2Learn(Learner):
    """Base class: one clone per task, one call of `clone.adapt` per step.

    Args:
        backbone: makes the network, `backbone(outputs=...)`, whose last layer is called `head`.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        inner_steps: S in training.
        eval_steps: steps at which the headline metric is measured.

    Raises:
        ValueError: steps that are not integers of at least 0, or learn2learn is not installed.
    """

    vectorized = False

    def __init__(self, backbone: Backbone, outputs: int, loss: TaskLoss, inner_steps: int, eval_steps: int) -> None:
        require_learn2learn()
        super().__init__(loss)
        require_int("algo", inner_steps=inner_steps, eval_steps=eval_steps)
        self.net = backbone(outputs=outputs)
        self.inner_steps, self.eval_steps = inner_steps, eval_steps

    @abstractmethod
    def clone(self, keep_graph: bool) -> Any:
        """Clone learn2learn's algorithm around the module that adapts.

        Args:
            keep_graph: the outer gradient flows through the steps; otherwise they may be constants.
        """

    def embed(self, x: Tensor) -> Tensor:
        """Inputs of the clone for inputs x of the network."""
        return x

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # samples nothing
        keep_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            clone = self.clone(keep_graph)
        yield self._predictor(clone, support)
        for _ in range(steps):
            with torch.enable_grad():  # evaluation switches gradients off; the inner problem needs them
                clone.adapt(self.loss(clone(self.embed(support.x)), support.y))
            yield self._predictor(clone, support)

    def _predictor(self, clone: Any, support: Examples) -> Predictor:
        """The network under the clone's current weights: `adapt` replaces the clone's tensors by new ones."""
        return self.functional_predictor(self.net, dict(clone.module.named_parameters()), support)


class Learn2LearnMAML(Learn2Learn):
    """`l2l.algorithms.MAML`; constructor and weights (`state_dict`) are those of `metarun.algos.maml.MAML`.

    Args:
        backbone, outputs, loss, inner_steps, eval_steps: as in `Learn2Learn`.
        inner_lr: alpha.
        first_order: treat the inner gradient as a constant.
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
        first_order: bool,
    ) -> None:
        super().__init__(backbone, outputs, loss, inner_steps, eval_steps)
        self.register_hyperparameter("inner_lr", inner_lr)
        self.first_order = first_order

    def clone(self, keep_graph: bool) -> Any:
        return self._maml(self.net, keep_graph)

    def _maml(self, module: nn.Module, keep_graph: bool) -> Any:
        from learn2learn.algorithms import MAML  # takes seconds to import

        return MAML(module, lr=self.inner_lr, first_order=self.first_order or not keep_graph).clone()


class Learn2LearnANIL(Learn2LearnMAML):
    """ANIL as in learn2learn's examples: its MAML around the head, on the features of the rest of the network.

    Constructor and weights (`state_dict`) are those of `metarun.algos.anil.ANIL`; arguments as in `Learn2LearnMAML`.
    """

    batch_norm_modes: ClassVar[tuple[str, ...]] = MODES

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        inner_lr: NonNegative,
        inner_steps: int,
        eval_steps: int,
        first_order: bool,
    ) -> None:
        super().__init__(backbone, outputs, loss, inner_lr, inner_steps, eval_steps, first_order)
        self.body, self.head = self.net, cast(nn.Module, self.net.head)
        self.body.head = nn.Identity()  # the body ends in features
        del self.net

    def clone(self, keep_graph: bool) -> Any:
        return self._maml(self.head, keep_graph)

    def embed(self, x: Tensor) -> Tensor:
        return self.body(x)

    def _predictor(self, clone: Any, support: Examples) -> Predictor:
        head = dict(clone.module.named_parameters())
        features = self.functional_predictor(self.body, dict(self.body.named_parameters()), support)
        return lambda x: functional_call(self.head, head, (features(x),))
