"""From scratch: nothing is trained before the test, and the test is plain SGD."""

import copy

import pytest
import torch

from metarun.algos.baselines.scratch import Scratch


def test_has_no_stage_of_training():
    assert Scratch.stages == ()


@pytest.mark.parametrize("kind", ["mlp", "conv4"])
def test_is_gradient_descent_from_the_random_weights(kind, make, draw, one):
    learner, task = make(Scratch, kind, eval_steps=4).eval(), one(draw(kind))
    net = copy.deepcopy(learner.net)
    sgd = torch.optim.SGD(net.parameters(), lr=float(learner.inner_lr))
    for _ in range(4):
        sgd.zero_grad()
        learner.loss(net(task.support.x), task.support.y).backward()
        sgd.step()
    with torch.no_grad():
        prediction = learner.adapt(task.support)(task.query.x)
    torch.testing.assert_close(prediction, net(task.query.x).detach(), rtol=1e-10, atol=1e-12)


def test_another_seed_starts_from_other_weights(make):
    first, second = (make(Scratch, "mlp", eval_steps=1, seed=seed).net.head.weight for seed in (0, 1))
    assert not torch.equal(first, second)
