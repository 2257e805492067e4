"""MTL, meta-transfer learning: a network is pre-trained and then kept; over tasks it is only scaled and shifted.

Sun, Liu, Chua, Schiele: Meta-Transfer Learning for Few-Shot Learning, CVPR 2019, arXiv 1812.02391. Official code:
github yaoyao-liu/meta-transfer-learning (tensorflow/, the paper's; pytorch/models/conv2d_mtl.py and mtl.py).

Outer problem, in two stages:
    1  over mini-batches F_i of images with their training classes, as in pretrained.py:
       min_{f, C}  mean_i L(s_C(f(x)), y; F_i)
    2  over tasks with query sets D', with f_Phi: f with W o Phi_1 for its weights W, b + Phi_2 for its biases b:
       min_{Phi, theta}  mean_i L(theta_S(D_i) . f_Phi(x), y; D'_i)          (f is frozen)
Inner problem, S steps on the support set D, of the classifier alone:
    theta_0 = theta,    theta_{j+1} = theta_j - alpha grad_theta L(theta_j . f_Phi(x), y; D)
Hard tasks (section 4.3): of each task the class whose queries fare worst is remembered; after every `hard_every`
meta-batches comes one that is drawn of remembered classes alone (tasks/hard.py).

    symbol    code               shape / unit
    f, C      net, classifier    see pretrained.py
    Phi       self.scale_shift   see backbones/scale_shift.py: a scale for each kernel, a shift for each bias
    theta     self.theta         linear, embeddings [n, d] to ways
    alpha     self.inner_lr      0-dim
    S         inner_steps        in training; `eval_steps` at test
    L         self.loss          mean over a set's examples

Differences from the paper
    - Batch norm (mode `running`) stays as stage 1 left it. In stage 2 the official codes normalise by the batch at hand
      (mode `batch` does too), and the one for PyTorch goes on learning the batch norms' own scales and shifts.
    - Convolutions without biases get no shift, as in the code for PyTorch; the paper's network has biases.
    - `first_order`, as the code for PyTorch: theta_S - theta counts as a constant. By default the derivative is whole.
    - One outer optimizer and schedule for both stages, the run's (`optimizer`).
    - Hard meta-batches come one by one between the others, and theirs are not remembered. No official code has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metarun.layers.norm import rows_of_tasks
from metarun.layers.scale_shift import ScaleShift, statistics_kept
from metarun.learner.embedding import one_hot
from metarun.learner.gradient_descent import descend
from metarun.learner.hard_classes import HardClassMemory
from metarun.learner.learner import Backbone, Stage, require_counts, require_positive
from metarun.learner.prediction import Predictor
from metarun.learner.pretrained import Pretrained
from metarun.tasks import Batch, Examples, Task, TaskLoss, TaskOfClasses


class MTL(Pretrained):
    """Learns to scale and shift a frozen network, and a classifier on it that is adapted.

    Args:
        backbone: makes f, of convolutions or linear layers, `backbone(outputs=None)`.
        outputs: ways.
        loss, base_classes: as in `Pretrained`.
        pretrain_share: of the iterations, those of stage 1; from 0 to 1.
        inner_lr: alpha.
        inner_steps, eval_steps: S in training, and where the headline is measured.
        first_order: drop the derivative of the inner gradient.
        scale_lr, theta_lr: outer learning rates of Phi and of theta; stage 1 has the run's.
        hard_every: meta-batches between two hard ones; 0: there are none.
        hard_memory: failures that hard tasks are drawn from.

    Raises:
        ValueError: nothing to scale, a share outside 0 to 1, bad counts, rates that are not above zero.
    """

    stages = (Stage("batches", 0.5), Stage("episodes", 0.5))  # an object has its own
    fusable = False  # it has a say in what is drawn, and two rates in one group
    inner_lr: Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        loss: TaskLoss,
        base_classes: int,
        pretrain_share: float,
        inner_lr: float,
        inner_steps: int,
        eval_steps: int,
        first_order: bool,
        scale_lr: float,
        theta_lr: float,
        hard_every: int,
        hard_memory: int,
    ) -> None:
        require_counts(inner_steps=inner_steps, eval_steps=eval_steps, hard_every=hard_every)
        require_counts(least=1, hard_memory=hard_memory)
        require_positive(scale_lr=scale_lr, theta_lr=theta_lr)
        if not 0 <= pretrain_share <= 1:
            raise ValueError(f"pretrain_share must be from 0 to 1, got {pretrain_share}")
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
        stage_1 = [*self.net.parameters(), *self.classifier.parameters()]
        stage_2 = ((self.scale_shift, self.scale_lr), (self.theta, self.theta_lr))
        rates = [{"params": list(part.parameters()), "lr": lr} for part, lr in stage_2]
        return [{"name": "pretrain", "params": stage_1}, {"name": "transfer", "params": rates}]

    def features(self, support: Examples) -> Predictor:
        predict = self.functional_predictor(self.net, self.scale_shift(self.net), support)
        return statistics_kept(self.net)(predict)  # at every call

    def embed(self, x: Tensor) -> Tensor:
        """Images of several tasks `[T, n, ...]` to `[T, n, d]` by f_Phi; stage 1 has f's (`Pretrained.forward`)."""
        with rows_of_tasks(self.net, len(x)), statistics_kept(self.net):
            return functional_call(self.net, self.scale_shift(self.net), (x.flatten(0, 1),)).unflatten(0, x.shape[:2])

    def heads(self, support: Examples, steps: int, random_inputs: Any = ()) -> Iterator[Predictor]:
        del random_inputs  # draws nothing
        support = Examples(support.x.detach(), support.y) if self.first_order else support
        return descend(self, self.theta, support, steps, self.inner_lr, self.first_order)

    def forward(self, batch: Batch, random_inputs: Any = (), objective: str = "all") -> Tensor:
        if isinstance(batch, Examples):
            return super().forward(batch, random_inputs, objective)
        losses, right = self.map_tasks(self.judged, self.embedded(Task(*cast(Task, batch)[:2])))
        if isinstance(batch, TaskOfClasses):
            self.failures.collect(batch.classes, right)
        return losses

    def judged(self, task: Task) -> tuple[Tensor, Tensor]:
        """The outer problem of one task of embeddings; and the share of each way's queries that are right, `[ways]`."""
        prediction = cast(Tensor, self.head(task.support)(task.query.x))
        member = one_hot(task.query.y, self.theta.out_features, prediction.dtype)
        right = (prediction.argmax(1) == task.query.y).to(prediction.dtype)
        return self.loss(prediction, task.query.y), right @ member / member.sum(0)

    def request_classes(self, tasks: int, generator: torch.Generator) -> Tensor | None:
        return self.failures.sample(tasks, self.theta.out_features, generator)

    def after_step(self) -> None:
        super().after_step()
        self.failures.update()

    def diagnostics(self) -> dict[str, Tensor]:
        return self.scale_shift.moved()
