"""Joint training is plain training on the pool, then plain SGD on the support set."""

import copy

import torch

from metarun.algos.baselines.joint import Joint


def test_trains_on_all_examples_of_all_tasks_pooled(make, draw, loss_and_gradient, relative):
    learner, batch = make(Joint, "mlp", eval_steps=1), draw("mlp")
    _, gradient = loss_and_gradient(learner, batch)
    learner.zero_grad()
    x = torch.cat([batch.support.x.flatten(0, 1), batch.query.x.flatten(0, 1)])
    y = torch.cat([batch.support.y.flatten(0, 1), batch.query.y.flatten(0, 1)])
    torch.nn.functional.mse_loss(learner.net(x), y).backward()
    assert relative(gradient, torch.cat([p.grad.flatten() for p in learner.parameters()])) < 1e-12


def test_fine_tunes_by_gradient_descent(make, draw, one):
    learner, task = make(Joint, "mlp", eval_steps=3, inner_lr=0.02).eval(), one(draw("mlp"))
    net = copy.deepcopy(learner.net)
    sgd = torch.optim.SGD(net.parameters(), lr=float(learner.inner_lr))
    expected = [net(task.query.x)]
    for _ in range(3):
        sgd.zero_grad()
        learner.loss(net(task.support.x), task.support.y).backward()
        sgd.step()
        expected.append(net(task.query.x))
    with torch.no_grad():
        predictions = [predict(task.query.x) for predict in learner.trajectory(task.support, 3)]
        adapted = learner.adapt(task.support)(task.query.x)
    torch.testing.assert_close(predictions, [e.detach() for e in expected], rtol=1e-10, atol=1e-12)
    assert torch.equal(adapted, predictions[3])


def test_is_for_regression():
    assert Joint.task_types == ("regression",)
