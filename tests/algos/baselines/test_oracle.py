"""The oracle is plain regression on inputs that contain the task's parameters."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from metarun.algos.baselines.oracle import Oracle
from metarun.backbones.mlp import MLP
from metarun.data.sinusoid import Sinusoid


def sinusoid():
    return Sinusoid(
        amplitude=(0.1, 5.0),
        phase=(0.0, 3.14),
        frequency=(1.0, 1.0),
        x=(-5.0, 5.0),
        noise=0.0,
        shots=10,
        queries=10,
        train_queries=10,
        device="cpu",
    )


def oracle(data):
    torch.manual_seed(0)
    backbone = partial(
        MLP, in_shape=data.in_shape("oracle"), hidden=[40, 40], activation="relu", norm="none", init="torch"
    )
    return Oracle(backbone=backbone, outputs=1, loss=F.mse_loss)


def test_samples_from_the_oracle_stream():
    assert [stage.stream for stage in Oracle.stages] == ["oracle"]
    assert Oracle.evaluation_stream_for(Sinusoid) == "oracle"  # and not the data set's own
    assert Oracle.task_types == ("regression",)


def test_trains_on_the_pool_and_does_not_adapt():
    data = sinusoid()
    learner, batch = oracle(data), data.eval_block("val", "oracle", 0)
    pooled = [torch.cat([a, b], 1) for a, b in zip(*batch, strict=True)]
    expected = torch.stack([F.mse_loss(learner.net(x), y) for x, y in zip(*pooled, strict=True)])
    torch.testing.assert_close(learner(batch), expected)
    query = batch.query.x[0]
    (predict,) = learner.trajectory(type(batch.support)(*(leaf[0] for leaf in batch.support)), 5)
    assert torch.equal(predict(query), learner.net(query))


@pytest.mark.slow
def test_the_tasks_parameters_let_it_beat_any_network_without_them():
    """Without them the best guess is the mean over tasks, whose error is the variance of the targets."""
    data = sinusoid()
    learner, generator = oracle(data), torch.Generator().manual_seed(0)
    adam = torch.optim.Adam(learner.parameters(), lr=0.01)
    eval_block = data.eval_block("test", "oracle", 0)
    untrained = float(learner(eval_block).detach().mean())
    for _ in range(400):
        adam.zero_grad()
        learner(data.sample("train", "oracle", 25, generator)).mean().backward()
        adam.step()
    trained, ignorant = float(learner(eval_block).detach().mean()), float(eval_block.query.y.var())
    assert untrained > 0.8 * ignorant
    assert trained < 0.4 * ignorant
