"""MAML++: MAML stabilised by a loss after every step, and by learning rates and batch norms for each step.

Antoniou, Edwards, Storkey: How to Train Your MAML, ICLR 2019, arXiv 1810.09502. Official code: github
AntreasAntoniou/HowToTrainYourMAMLPytorch (few_shot_learning_system.py, inner_loop_optimizers.py,
meta_neural_network_architectures.py).

Inner problem, S steps on the support set D:     theta_0 = theta
    theta_{k+1}[l] = theta_k[l] - alpha[k, l] grad_l L(theta_k, beta_k, D)          for each tensor l (LSLR)
Outer problem, over tasks with query sets D':
    min_{theta, alpha, beta}  mean_i sum_{k=1..S} w_k L(theta_k(D_i), beta_{k-1}, D'_i)         (MSL)

beta_k are the scales and shifts of the batch norms at step k, which do not adapt in the inner loop (BNWB). w is uniform
at first; linear annealing lowers all weights but w_S to 0.03 / S. In the first part of training the inner gradient is
treated as a constant (derivative-order annealing). Cosine annealing of the outer learning rate is the run's
(`scheduler=cosine`).

    symbol   code                     shape / unit
    theta    theta                    the backbone's parameters without those of batch norms
    beta     self.per_step_names      weight and bias of each batch norm, `[S, channels]`
    alpha    self.rates               `[S, tensors of theta]`, initially `inner_lr`; their outer rate is `rates_lr`
    w        self.step_weights()      `[S]`, sum 1
    S        inner_steps              steps in training; `eval_steps` at test, where steps beyond S are as step S
    L        self.loss                mean over a set's examples

Differences from the paper
    - Weights and derivative order change with every iteration, not with every epoch. After the epochs of annealing the
      official code uses the last step's loss alone; here the other steps keep 0.03 / S to the end.
    - The official rates are trained at the outer learning rate, which gave NaN on regression; here at `rates_lr`.
    - There are no running statistics of each step (BNRS in the paper). The official code keeps and never uses them:
      it evaluates by batch statistics, as `backbone.norm=batch` does. Step k's would be those of queries under
      theta_{k+1}, by which its support set, under theta_k, is not normalised in training.
    - The official network has another order in each block (convolution, leaky ReLU, then norm).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import grad

from metarun.checks import NonNegative, require_int, require_positive
from metarun.layers.norm import BatchNorm, batch_norms
from metarun.learner.learner import Backbone, Learner
from metarun.learner.prediction import Predictor
from metarun.tasks import Examples, Task, TaskLoss

FLOOR = 0.03  # times 1 / S: the minimum weight of a step's loss


class MAMLPlusPlus(Learner):
    """Learns an initialisation, learning rates per layer and step, and batch norms per step.

    Args:
        backbone: makes the network, `backbone(outputs=...)`.
        outputs: ways, or the dimension of a regression's target.
        loss: the task loss L.
        inner_lr: initial value of all rates alpha.
        rates_lr: the meta-optimizer's learning rate for alpha.
        inner_steps: S.
        eval_steps: steps at which the headline is measured.
        multi_step_share: share of training over which the weights w are annealed.
        first_order_share: share of training, from its start, that is first-order.

    Raises:
        ValueError: a count out of range, or a rate or `multi_step_share` that is not above 0.
    """

    init_only_args = ("inner_lr",)
    uses_progress: ClassVar[bool] = True
    multi_step_share: Tensor
    first_order_share: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        inner_lr: float,
        rates_lr: float,
        inner_steps: int,
        eval_steps: int,
        multi_step_share: float,
        first_order_share: NonNegative,
    ) -> None:
        super().__init__(loss)
        require_int("algo", minimum=1, inner_steps=inner_steps)
        require_int("algo", eval_steps=eval_steps)
        require_positive("algo", inner_lr=inner_lr, rates_lr=rates_lr, multi_step_share=multi_step_share)
        self.inner_steps, self.eval_steps, self.rates_lr = inner_steps, eval_steps, rates_lr
        self.register_hyperparameter("multi_step_share", multi_step_share)
        self.register_hyperparameter("first_order_share", first_order_share)
        self.net = backbone(outputs=outputs)
        for norm in batch_norms(self.net):
            norm.per_step(inner_steps)
        self.per_step_names = [
            f"{path}.{name}"
            for path, module in self.net.named_modules()
            if isinstance(module, BatchNorm)
            for name, _ in module.named_parameters()
        ]
        self.adapted_names = [name for name, _ in self.net.named_parameters() if name not in self.per_step_names]
        self.rates = nn.Parameter(torch.full((inner_steps, len(self.adapted_names)), float(inner_lr)))
        self.start_exactly("rates", inner_lr)

    def trajectory(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # draws nothing

        def predictor(theta: dict[str, Tensor], k: int) -> Predictor:
            beta = {name: parameters[name][k] for name in self.per_step_names}
            return self.functional_predictor(self.net, {**theta, **beta}, support)

        def support_loss(theta: dict[str, Tensor], k: int) -> Tensor:
            return self.loss(predictor(theta, k)(support.x), support.y)

        parameters: dict[str, Tensor] = dict(self.net.named_parameters())
        theta = {name: parameters[name] for name in self.adapted_names}
        second_order = (self.progress >= self.first_order_share).to(self.progress.dtype)  # 1 or 0
        yield predictor(theta, 0)
        for step in range(steps):
            k = min(step, self.inner_steps - 1)
            gradient = grad(support_loss)(theta, k)
            for name, alpha in zip(self.adapted_names, self.rates[k], strict=True):
                constant = gradient[name].detach()
                theta = {**theta, name: theta[name] - alpha * (constant + second_order * (gradient[name] - constant))}
            yield predictor(theta, k)

    def meta_loss(self, task: Task, random_inputs: Any = ()) -> Tensor:
        _, *predictors = self.trajectory(task.support, self.inner_steps, random_inputs)
        losses = [self.loss(predict(task.query.x), task.query.y) for predict in predictors]
        return (self.step_weights() * torch.stack(losses)).sum()

    def step_weights(self) -> Tensor:
        """w `[S]` at the current progress of training."""
        steps = self.inner_steps
        remaining = 1 - (self.progress / self.multi_step_share).clamp(max=1)
        others = (remaining / steps).clamp(min=FLOOR / steps)
        return torch.cat([others.expand(steps - 1), (1 - (steps - 1) * others).view(1)])

    def parameter_groups(self) -> list[dict]:
        return [
            {"name": "meta", "params": list(self.net.parameters())},
            {"name": "rates", "params": [self.rates], "lr": self.rates_lr},
        ]

    def diagnostics(self) -> dict[str, Tensor]:
        """Mean learning rate of each step, and the weight of the last step's loss.

        rate/stepK: mean over tensors of the learned rate of inner step K.
        last_step_weight: weight of the last step's loss; it grows from 1 / S to nearly 1.
        """
        means = {f"rate/step{k + 1}": rate.mean() for k, rate in enumerate(self.rates)}
        return {**means, "last_step_weight": self.step_weights()[-1]}
