"""Reference learners with a learned inner update: learn2learn's MetaSGD, and its GBML with two transforms.

Meta-SGD: Li, Zhou, Chen, Li 2017, arXiv 1707.09835; Meta-Curvature: Park, Oliva, NeurIPS 2019, arXiv
1902.03356; KFO: Arnold, Iqbal, Sha: When MAML Can Adapt Fast and How to Assist When It Cannot, AISTATS 2021, arXiv
1910.13603. Code: github learnables/learn2learn (algorithms/meta_sgd.py and gbml.py, optim/transforms;
examples/vision/metacurvature_fc100.py and anilkfo_cifarfs.py).

Inner problem, S steps on the support set D:    theta_{k+1} = theta_k - alpha M(grad L(theta_k, D))
Outer problem, over tasks with query sets D':   min_{theta, M}  mean_i L(theta_S(theta, M, D_i), D'_i)

Meta-SGD: alpha M is one rate for each weight. Meta-Curvature: M multiplies a matrix's gradient from the left and the
right, a convolution's along filters, channels and positions, a bias's element by element. KFO: the gradient, as one
matrix n x m (for a convolution, several), is multiplied from the left by A'A and from the right by B'B. Meta-Curvature
and KFO start as the identity, which is MAML.

    symbol   code             shape / unit
    theta    self.net         the backbone's parameters
    M        self.update      l2l.optim.ParameterUpdate: a transform for each parameter
    alpha    self.inner_lr    0-dim; the same for all parameters and steps
    alpha M  self.rates       for Meta-SGD: one tensor of each parameter's shape, any sign
    S        inner_steps      steps in training; `eval_steps` at test
    L        self.loss        mean over a set's examples
    D, D'    support, query   x [n, ...], y

Differences from the paper
    - learn2learn's MetaSGD starts all rates from one number; here they start in a uniform range, as in `algo=meta_sgd`.
    - KFO's example in learn2learn transforms the head's gradients only (on top of ANIL); here those of the whole
      network, as for Meta-Curvature.
    - Otherwise as in gradient_based.py.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from metarun.algos.learn2learn.gradient_based import Learn2Learn
from metarun.algos.meta_sgd import draw_rates, start_equal_rates_exactly
from metarun.checks import NonNegative
from metarun.learner.learner import Backbone
from metarun.tasks import TaskLoss


class Learn2LearnMetaSGD(Learn2Learn):
    """`l2l.algorithms.MetaSGD`; constructor and weights (`state_dict`) are those of `metarun.algos.meta_sgd.MetaSGD`.

    Args:
        backbone, outputs, loss, inner_steps, eval_steps: as in `Learn2Learn`.
        initial_rates: lowest and highest of the uniform range that alpha starts in.
    """

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        initial_rates: tuple[float, float],
        inner_steps: int,
        eval_steps: int,
    ) -> None:
        super().__init__(backbone, outputs, loss, inner_steps, eval_steps)
        self.rates = draw_rates(self.net, initial_rates)
        start_equal_rates_exactly(self, initial_rates)

    def clone(self, keep_graph: bool) -> Any:
        from learn2learn.algorithms import MetaSGD  # takes seconds to import

        return MetaSGD(self.net, lrs=self.rates, first_order=not keep_graph).clone()


class Learn2LearnGBML(Learn2Learn):
    """`l2l.algorithms.GBML` with the transform that a subclass defines.

    Args:
        backbone, outputs, loss, inner_steps, eval_steps: as in `Learn2Learn`.
        inner_lr: alpha.
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
    ) -> None:
        super().__init__(backbone, outputs, loss, inner_steps, eval_steps)
        from learn2learn.optim import ParameterUpdate  # takes seconds to import

        self.register_hyperparameter("inner_lr", inner_lr)
        self.update = ParameterUpdate(self.net.parameters(), self.transform)

    @abstractmethod
    def transform(self, parameter: Tensor) -> nn.Module:
        """The transform of one parameter's gradient."""

    def clone(self, keep_graph: bool) -> Any:
        from learn2learn.algorithms import GBML

        settings = {"lr": self.inner_lr, "first_order": not keep_graph, "compute_update": self.update}
        return GBML(self.net, transform=self.transform, **settings).clone()


class Learn2LearnMetaCurvature(Learn2LearnGBML):
    """Meta-Curvature: a factor of the curvature along every dimension of a parameter."""

    def transform(self, parameter: Tensor) -> nn.Module:
        from learn2learn.optim.transforms import MetaCurvatureTransform

        return MetaCurvatureTransform(parameter)


class Learn2LearnKFO(Learn2LearnGBML):
    """KFO: a positive semi-definite Kronecker product for every parameter."""

    def transform(self, parameter: Tensor) -> nn.Module:
        import learn2learn as l2l

        return l2l.optim.transforms.KroneckerTransform(l2l.nn.KroneckerLinear)(parameter)
