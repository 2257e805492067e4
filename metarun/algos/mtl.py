"""MTL, meta-transfer learning: a network is pre-trained and frozen; on tasks only scales and shifts of it are learned.

Sun, Liu, Chua, Schiele: Meta-Transfer Learning for Few-Shot Learning, CVPR 2019, arXiv 1812.02391. Official code:
github yaoyao-liu/meta-transfer-learning (tensorflow/, the paper's; pytorch/models/conv2d_mtl.py and mtl.py).

Outer problem, in two stages:
    1  over mini-batches F_i of images with their training classes, as in learner/pretrained.py:
       min_{f, C}  mean_i L(s_C(f(x)), y; F_i)
    2  over tasks with query sets D', with f_Phi: f with W o Phi_1 for its weights W, b + Phi_2 for its biases b:
       min_{Phi, theta}  mean_i L(theta_S(D_i) . f_Phi(x), y; D'_i)          (f is frozen)
Inner problem, S steps on the support set D that move the classifier alone:
    theta_0 = theta,    theta_{j+1} = theta_j - alpha grad_theta L(theta_j . f_Phi(x), y; D)
Hard tasks (section 4.3): the class of each task with the lowest query accuracy is stored; every `hard_every`
meta-batches are followed by one whose tasks are sampled from stored classes alone (learner/hard_classes.py).

    symbol    code               shape / unit
    f, C      net, classifier    see learner/pretrained.py
    Phi       self.scale_shift   see layers/scale_shift.py: a scale for each kernel, a shift for each bias
    theta     self.theta         linear, embeddings [n, d] to ways
    alpha     self.inner_lr      0-dim
    S         inner_steps        in training; `eval_steps` at test
    L         self.loss          mean over a set's examples

Differences from the paper
    - Batch norm (mode `running`) stays as stage 1 left it. In stage 2 the official codes normalise by the current batch
      (as mode `batch` does), and the PyTorch code continues to learn the batch norms' own scales and shifts.
    - Convolutions without biases get no shift, as in the PyTorch code; the paper's network has biases.
    - `first_order` treats theta_S - theta as a constant, as the PyTorch code does. By default the derivative is exact.
    - Both stages share one meta-optimizer and schedule, the run's (`optimizer`).
    - Hard meta-batches are single ones between the others, and their failures are not stored. The official codes do not
      have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metarun.checks import NonNegative, is_number, require, require_int, require_positive
from metarun.layers.norm import rows_of_tasks
from metarun.layers.scale_shift import ScaleShift, statistics_kept
from metarun.learner.embedding import one_hot
from metarun.learner.gradient_descent import descend
from metarun.learner.hard_classes import HardClassMemory
from metarun.learner.learner import Backbone, Stage
from metarun.learner.prediction import Predictor, correctness
from metarun.learner.pretrained import Pretrained
from metarun.tasks import Batch, Examples, Task, TaskLoss, TaskOfClasses


class MTL(Pretrained):
    """Learns scales and shifts of a frozen network, and the initial classifier that adapts to a task.

    Args:
        backbone: makes f, of convolutions or linear layers, `backbone(outputs=None)`.
        outputs: ways.
        loss, base_classes: as in `Pretrained`.
        pretrain_share: share of the iterations that belong to stage 1, from 0 to 1.
        inner_lr: alpha.
        inner_steps: S in training.
        eval_steps: steps at which the headline is measured.
        first_order: drop the derivative of the inner gradient.
        scale_lr, theta_lr: outer learning rates of Phi and of theta; stage 1 uses the run's.
        hard_every: meta-batches between two hard ones; 0: there are none.
        hard_memory: number of stored failures that hard tasks are sampled from.

    Raises:
        ValueError: a backbone without layers to scale, a share outside [0, 1], a count out of range, or a rate that is
            not above 0.
    """

    stages = (Stage("batches", 0.5), Stage("episodes", 0.5))  # replaced by the constructor
    fusable = False  # it requests classes, and has two learning rates in one group
    inner_lr: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        base_classes: int,
        pretrain_share: float,
        inner_lr: NonNegative,
        inner_steps: int,
        eval_steps: int,
        first_order: bool,
        scale_lr: float,
        theta_lr: float,
        hard_every: int,
        hard_memory: int,
    ) -> None:
        require_int("algo", inner_steps=inner_steps, eval_steps=eval_steps, hard_every=hard_every)
        require_int("algo", minimum=1, hard_memory=hard_memory)
        require_positive("algo", scale_lr=scale_lr, theta_lr=theta_lr)
        is_share = is_number(pretrain_share) and 0 <= pretrain_share <= 1
        require("algo.pretrain_share", pretrain_share, is_share, "from 0 to 1")
        super().__init__(backbone, outputs, loss, base_classes)
        tasks = "episodes_of_classes" if hard_every else "episodes"
        self.stages = (Stage("batches", pretrain_share, ("pretrain",)), Stage(tasks, 1 - pretrain_share, ("transfer",)))
        self.scale_shift = ScaleShift(self.net)
        self.theta = nn.Linear(self.width, outputs)
        self.register_hyperparameter("inner_lr", inner_lr)
        self.inner_steps, self.eval_steps, self.first_order = inner_steps, eval_steps, first_order
        self.scale_lr, self.theta_lr = scale_lr, theta_lr
        self.failures = HardClassMemory(hard_every, hard_memory)

    def parameter_groups(self) -> list[dict]:
        pretrained = [*self.net.parameters(), *self.classifier.parameters()]
        transferred = [
            {"params": list(self.scale_shift.parameters()), "lr": self.scale_lr},
            {"params": list(self.theta.parameters()), "lr": self.theta_lr},
        ]
        return [{"name": "pretrain", "params": pretrained}, {"name": "transfer", "params": transferred}]

    def features(self, support: Examples) -> Predictor:
        embed = self.functional_predictor(self.net, self.scale_shift(self.net), support)
        return statistics_kept(self.net)(embed)  # decorated: running statistics apply at every call

    def embed(self, x: Tensor) -> Tensor:
        """Images of several tasks `[T, n, ...]` to `[T, n, d]` by f_Phi; stage 1 uses f (`Pretrained.forward`)."""
        with rows_of_tasks(self.net, len(x)), statistics_kept(self.net):
            z = functional_call(self.net, self.scale_shift(self.net), (x.flatten(0, 1),))
        return z.unflatten(0, x.shape[:2])

    def heads(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # draws nothing
        support = Examples(support.x.detach(), support.y) if self.first_order else support
        return descend(self, self.theta, support, steps, self.inner_lr, self.first_order)

    def forward(self, batch: Batch, random_inputs: Any = (), objective: str = "all") -> Tensor:
        if isinstance(batch, Examples):
            return super().forward(batch, random_inputs, objective)
        losses, accuracies = self.map_tasks(self.loss_and_accuracy, self.embedded(Task(*cast(Task, batch)[:2])))
        if isinstance(batch, TaskOfClasses):
            self.failures.collect(batch.classes, accuracies)
        return losses

    def loss_and_accuracy(self, task: Task) -> tuple[Tensor, Tensor]:
        """The outer problem of one task of embeddings, and the query accuracy of each way, `[ways]`."""
        prediction = cast(Tensor, self.head(task.support)(task.query.x))
        labels = one_hot(task.query.y, self.theta.out_features, prediction.dtype)
        return self.loss(prediction, task.query.y), correctness(prediction, task.query.y) @ labels / labels.sum(0)

    def request_classes(self, tasks: int, generator: torch.Generator) -> Tensor | None:
        return self.failures.sample(tasks, self.theta.out_features, generator)

    def after_step(self) -> None:
        super().after_step()
        self.failures.update()

    def diagnostics(self) -> dict[str, Tensor]:
        """How far scales and shifts have moved.

        scale: mean distance of the scales from 1.
        shift: mean distance of the shifts from 0; absent where no convolution has a bias.
        """
        return self.scale_shift.moved()
