"""The hand-written outer step that the benchmark measures against is MAML's: same losses, same meta-gradient."""

from __future__ import annotations

import pytest
import torch
import toy

from metarun.tasks import Examples, Task
from scripts.benchmark import handwritten


def images() -> Task:
    generator = torch.Generator().manual_seed(0)

    def examples(n: int) -> Examples:
        x = torch.rand(3, 5 * n, 1, 28, 28, generator=generator, dtype=torch.float64)
        return Examples(x, torch.arange(5).repeat_interleave(n).expand(3, -1).contiguous())

    return Task(examples(1), examples(2))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", ["mlp", "conv4"])
def test_it_is_maml(kind, steps, first_order):
    kwargs = {"inner_lr": 0.125, "inner_steps": steps, "first_order": first_order}
    if kind == "mlp":
        learner = toy.seeded(lambda: toy.maml(toy.mlp(activation="relu"), **kwargs))
        batch = learner.to_dtype(toy.sinusoid().sample("train", "episodes", 3, torch.Generator().manual_seed(0)))
    else:
        learner, batch = toy.seeded(lambda: toy.maml(toy.conv4(), outputs=5, **kwargs)), images()
    losses = learner(batch)
    wanted = torch.autograd.grad(losses.mean(), list(learner.parameters()))
    forward = handwritten.mlp if kind == "mlp" else handwritten.conv4
    parameters = list(learner.parameters())
    values = handwritten.maml_losses(forward, parameters, *batch, 0.125, steps, first_order)
    torch.testing.assert_close(values, losses, rtol=1e-10, atol=1e-12)
    for gradient, other in zip(torch.autograd.grad(values.mean(), parameters), wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-10)
