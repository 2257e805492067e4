"""Are they the optimizers that their names say? Against torch's own, step by step."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
import toy

from metarun.algos.baselines.tuned_optimizer import RULES, TunedOptimizer
from metarun.backbones.linear import Linear
from metarun.data.quadratics import Quadratics
from metarun.evaluation.evaluate import evaluate_batch
from metarun.tasks import Examples

THEIRS = {
    "sgd": torch.optim.SGD,
    "nag": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
}
NUMBERS = {"inner_lr": 0.02, "init_std": 0.4, "batch": 4, "eval_steps": 12}


def make(rule, backbone=None, outputs=1, **changes):
    loss = F.mse_loss if outputs == 1 else F.cross_entropy
    return TunedOptimizer(backbone or toy.mlp(), outputs, loss, inner_optimizer=rule, **(NUMBERS | changes)).double()


def test_all_rules_are_compared():
    assert set(THEIRS) == set(RULES)


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("kind", ["regression", "classification"])
@pytest.mark.parametrize("rule", RULES)
def test_every_step_is_torchs(rule, kind, batch_size, draw):
    backbone, outputs, shape = (toy.mlp(), 1, "mlp") if kind == "regression" else (toy.mlp((1, 16, 16)), 5, "conv4")
    learner, batch = make(rule, backbone, outputs, batch=batch_size).eval(), draw(shape)
    random_inputs = learner.to_dtype(learner.random_inputs(batch, 12, torch.Generator().manual_seed(0)))
    for t in range(2):
        net = backbone(outputs=outputs).double()
        torch.nn.utils.vector_to_parameters(learner.init_std * random_inputs["start"][t], net.parameters())
        optimizer = THEIRS[rule](net.parameters(), lr=float(learner.inner_lr))
        support, x = Examples(batch.support.x[t], batch.support.y[t]), batch.query.x[t]
        one_tasks = {"start": random_inputs["start"][t], "rows": random_inputs["rows"][t] if batch_size else ()}
        for step, predict in enumerate(learner.trajectory(support, 12, one_tasks)):
            torch.testing.assert_close(predict(x), net(x).detach(), rtol=1e-10, atol=1e-10)
            rows = one_tasks["rows"][step] if batch_size else slice(None)
            optimizer.zero_grad()
            learner.loss(net(support.x[rows]), support.y[rows]).backward()
            optimizer.step()


def test_nothing_is_trained():
    assert TunedOptimizer.stages == ()
    assert list(make("adam").parameters()) == []


def test_the_rate_is_a_hyperparameter_of_the_learner():
    learner = make("sgd")
    assert {"inner_lr", "init_std"} <= set(learner.hyperparameters)
    assert learner.inner_lr.shape == () and "inner_lr" not in learner.state_dict()


def test_they_minimise_quadratics_and_memory_helps():
    """10-dimensional quadratics, 50 steps: all fall from about 110; momentum and Adam fall further than SGD."""
    data = Quadratics(10, "cpu")
    batch = data.sample("test", "episodes", 50, torch.Generator().manual_seed(0))
    rates = {"sgd": 0.012, "nag": 0.006, "rmsprop": 0.05, "adam": 0.3}
    final = {}
    for rule, rate in rates.items():
        learner = make(rule, partial(Linear, (10,), bias=False), inner_lr=rate, init_std=1.0, batch=None, eval_steps=50)
        random_inputs = learner.to_dtype(learner.random_inputs(batch, 50, torch.Generator().manual_seed(1)))
        scores = evaluate_batch(learner.eval(), "regression", learner.to_dtype(batch), random_inputs, 50)["mse"]
        assert 80 < scores[:, 0].mean() < 140
        final[rule] = scores[:, -1].mean()
    assert all(value < 4 for value in final.values())
    assert final["nag"] < final["sgd"] and final["adam"] < final["sgd"]


def test_an_unknown_rule_is_refused():
    message = r"^algo\.inner_optimizer must be one of sgd, nag, rmsprop, adam; got 'adagrad'$"
    with pytest.raises(ValueError, match=message):
        make("adagrad")
