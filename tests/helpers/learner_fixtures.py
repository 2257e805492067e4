"""Fixtures for tests of learners: small networks and tasks, gradients, finite differences."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metarun.backbones.conv4 import Conv4
from metarun.backbones.mlp import MLP
from metarun.data.synthetic import Synthetic
from metarun.tasks import Examples, Task
from metarun.training.gradients import compiled_gradient_of

BACKBONES = {
    "mlp": partial(MLP, in_shape=(1,), hidden=[40, 40], activation="relu", norm="none", init="torch"),
    "conv4": partial(
        Conv4,
        in_shape=(1, 16, 16),
        filters=6,
        blocks=3,
        downsample="stride",
        features="mean",
        norm="batch",
        init="torch",
    ),
}
OUTPUTS = {"mlp": 1, "conv4": 5}
LOSSES = {"mlp": F.mse_loss, "conv4": F.cross_entropy}


@pytest.fixture
def backbones():
    return BACKBONES


@pytest.fixture
def make():
    """make(cls, kind, **kwargs): a learner on a small backbone, always with the same weights, in float64."""

    def build(cls, kind, dtype=torch.float64, seed=0, **kwargs):
        kwargs = {"inner_lr": 0.1} | kwargs
        backbone = kwargs.pop("backbone", BACKBONES[kind])
        torch.manual_seed(seed)
        return cls(backbone=backbone, outputs=OUTPUTS[kind], loss=LOSSES[kind], **kwargs).to(dtype)

    return build


@pytest.fixture
def draw():
    """draw(kind): a batch of 4 sinusoids (10 + 10 points), or of 3 image tasks (5-way 2-shot, 3 queries)."""

    def sample(kind, dtype=torch.float64, seed=0):
        generator = torch.Generator().manual_seed(seed)
        if kind == "mlp":
            x = torch.rand(4, 20, 1, generator=generator, dtype=torch.float64) * 10 - 5
            phase, height = torch.rand(2, 4, 1, 1, generator=generator, dtype=torch.float64)
            y = (0.1 + 4.9 * height) * torch.sin(x - 3.14 * phase)
            x, y = x.to(dtype), y.to(dtype)
            sets = [Examples(x[:, rows], y[:, rows]) for rows in (slice(10), slice(10, 20))]
        else:
            x = torch.rand(3, 25, 1, 16, 16, generator=generator, dtype=torch.float64).to(dtype)
            y = torch.arange(25).remainder(5).expand(3, 25)
            sets = [Examples(x[:, rows], y[:, rows]) for rows in (slice(10), slice(10, 25))]
        return Task(*sets)

    return sample


@pytest.fixture
def loss_and_gradient():
    """Losses `[T]` and the gradient of their mean, one flat vector."""

    def compute(learner, batch, call=None):
        learner.zero_grad()
        losses = (learner if call is None else call)(batch)
        losses.mean().backward()
        return losses.detach(), torch.cat([p.grad.flatten() for p in learner.parameters()])

    return compute


@pytest.fixture
def compiled_loss_and_gradient():
    """`loss_and_gradient` of the compiled learner, as in training."""

    def compute(learner, batch, *random_inputs):
        learner.zero_grad()
        losses = compiled_gradient_of(learner, learner.parameters())(len(batch.support.x), batch, *random_inputs)
        return losses, torch.cat([p.grad.flatten() for p in learner.parameters()])

    return compute


@pytest.fixture
def slopes_agree(loss_and_gradient):
    """slopes_agree(learner, batch): the meta-gradient agrees with finite differences in four directions."""

    def check(learner, batch, size=1e-6, rtol=1e-5):
        _, gradient = loss_and_gradient(learner, batch)
        weights = torch.cat([p.detach().flatten() for p in learner.parameters()])  # in any memory format
        generator = torch.Generator().manual_seed(3)
        for _ in range(4):
            direction = torch.randn(weights.shape, generator=generator, dtype=weights.dtype)
            direction /= direction.norm()
            losses = []
            for step in (size, -size):
                nn.utils.vector_to_parameters(weights + step * direction, learner.parameters())
                losses.append(learner(batch).mean().detach())
            slope = (losses[0] - losses[1]) / (2 * size)
            torch.testing.assert_close(gradient @ direction, slope, rtol=rtol, atol=1e-7 * float(gradient.norm()))

    return check


@pytest.fixture
def relative():
    """The relative error of a vector."""

    def error(a, reference):
        return float((a - reference).norm() / reference.norm())

    return error


@pytest.fixture
def one():
    """The first task of a batch."""

    def first(batch):
        return Task(*(Examples(*(leaf[0] for leaf in examples)) for examples in batch))

    return first


@pytest.fixture
def glyphs():
    """glyphs(**sizes): small synthetic images, 5-way 1-shot."""
    kwargs = {"glyph_seed": 0, "train_classes": 60, "val_classes": 20, "test_classes": 20, "drawings": 20}
    kwargs |= {"partition": "glyphs", "ways": 5, "shots": 1, "queries": 5, "train_ways": 5, "train_queries": 5}
    kwargs |= {"batch_size": 16, "device": "cpu"}
    return lambda **sizes: Synthetic(**(kwargs | sizes))
