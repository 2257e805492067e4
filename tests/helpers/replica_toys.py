"""Trainings that are fused, and the same ones alone."""

from __future__ import annotations

from functools import cache, partial

import torch
import toy
from small import components_of
from torch import nn

from metarun.algos.maml_pp import MAMLPlusPlus
from metarun.algos.mtnet import MTNet
from metarun.algos.protonet import ProtoNet
from metarun.fused.replicas import Replicas
from metarun.tasks import Examples, Task
from metarun.training.loop import TrainState, fit
from metarun.training.meta_optimizer import MetaOptimizer

ADAM = partial(torch.optim.Adam, fused=True)


def meta_optimizer(optimizer=ADAM, lr=1e-2, scheduler=None, max_grad_norm=None, max_grad_value=None):
    return MetaOptimizer(optimizer, lr, scheduler or toy.cosine(20), max_grad_norm, max_grad_value)


def mtnet(seed: int, inner_lr: float = 0.05, mask: str = "row") -> MTNet:
    torch.manual_seed(seed)
    return MTNet(toy.mlp(), 1, nn.functional.mse_loss, True, mask, 1.0, inner_lr, 2, 2).double()


def begin(learner, how: MetaOptimizer, seed: int) -> TrainState:
    return TrainState.create(learner, how, toy.CPU, seed)


CELLS = [(0, 0.05), (1, 0.05), (0, 0.2)]  # seed, alpha


def alone(how: MetaOptimizer, steps: int = 20, data=None, chunk=None) -> list[tuple[TrainState, list[float]]]:
    runs = []
    for seed, alpha in CELLS:
        training = begin(mtnet(seed, alpha), how, seed)
        losses = [step.loss for step in fit(training, data or toy.sinusoid(), how, steps, 3, chunk)]
        runs.append((training, losses))
    return runs


def together(how: MetaOptimizer) -> Replicas:
    return Replicas([begin(mtnet(*cell), how, cell[0]) for cell in CELLS], [toy.sinusoid()] * len(CELLS), how)


def assert_same_learner(a: nn.Module, b: nn.Module, tolerance: float = 1e-11) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance, msg=name)


OPTIMIZERS = {
    "adam": {},
    "adam, clipped": {"max_grad_norm": 0.05},
    "adam, entries clipped": {"max_grad_value": 0.01},
    "sgd": {"optimizer": partial(torch.optim.SGD, momentum=0.9, nesterov=True), "lr": 1e-3, "max_grad_norm": 1.0},
    "adamw": {"optimizer": partial(torch.optim.AdamW, weight_decay=0.1)},
    "rmsprop": {"optimizer": torch.optim.RMSprop, "lr": 1e-3},
}


def expected_start(algo: str) -> list[torch.Tensor]:
    return list(components_of(algo, 0).learner.parameters())


COMPILED = {
    "mtnet": lambda rate: MTNet(toy.mlp(hidden=[8]), 1, nn.functional.mse_loss, True, "row", 1.0, rate, 1, 1),
    "maml, running statistics": lambda rate: toy.maml(toy.mlp(hidden=[8], norm="running"), inner_lr=rate),
}


class Pictures(toy.Blobs):
    """Images of noise with classes by turns."""

    def sample(self, part, stream, tasks, generator):
        x = torch.rand(tasks, 9, 1, 12, 12, generator=generator)
        y = torch.arange(9).remainder(3).expand(tasks, 9)
        return Task(Examples(x[:, :3], y[:, :3]), Examples(x[:, 3:], y[:, 3:]))


def conv(norm: str = "batch"):
    return toy.conv4((1, 12, 12), blocks=2, norm=norm)


def image_maml(norm: str = "batch", steps: int = 1, first_order: bool = False):
    return lambda rate: toy.maml(conv(norm), 3, inner_lr=rate, inner_steps=steps, first_order=first_order)


def protonet(norm: str):
    return lambda rate: ProtoNet(conv(norm), 3, nn.functional.cross_entropy, temperature=rate)


LEARNERS = {
    "maml": image_maml(),
    "maml, 3 steps": image_maml(steps=3),
    "maml, first order": image_maml(first_order=True),
    "maml, first order, 3 steps": image_maml(steps=3, first_order=True),
    "maml, the support set's statistics": image_maml("support"),
    "maml, running statistics": image_maml("running", steps=2),
    "maml++": lambda rate: MAMLPlusPlus(conv(), 3, nn.functional.cross_entropy, rate, 1e-3, 2, 2, 0.5, 0.0),
    "protonet": protonet("batch"),
    "protonet, running statistics": protonet("running"),
    "protonet, squares dropped": lambda rate: ProtoNet(
        toy.dropping((1, 12, 12)), 3, nn.functional.cross_entropy, temperature=rate
    ),
}


IMAGE_CELLS = [(0, 0.4), (1, 0.4), (2, 0.05)]  # seed; inner rate, or temperature


SGD = partial(torch.optim.SGD, momentum=0.9)  # Adam would blow up the rounding of a bias before the norm


def image_training(make, seed: int, rate: float, how: MetaOptimizer) -> TrainState:
    torch.manual_seed(seed)
    return begin(make(rate).double(), how, seed)


def image_replicas(make, how: MetaOptimizer, size: int | None, cells=IMAGE_CELLS) -> Replicas:
    runs = [image_training(make, *cell, how) for cell in cells]
    return Replicas(runs, [Pictures()] * len(runs), how, size)


@cache
def images_alone(kind: str) -> list[tuple[TrainState, list[float]]]:
    how, runs = meta_optimizer(SGD, 0.05, max_grad_norm=0.2), []
    for cell in IMAGE_CELLS:
        training = image_training(LEARNERS[kind], *cell, how)
        runs.append((training, [step.loss for step in fit(training, Pictures(), how, 6, 3)]))
    return runs


MICRO_BATCHES = [(None, None), (None, 2), (2, 2), (1, None)]  # of replicas, of tasks
