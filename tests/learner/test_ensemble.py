"""Several weights of one network: each does what the network with those weights does."""

import pytest
import torch
from torch import nn

from metarun.algos.maml import MAML
from metarun.learner.ensemble import (
    descend_all,
    for_each,
    log_likelihood,
    predict_by_all,
    stack_parameters,
)
from metarun.learner.prediction import Samples
from metarun.tasks import Examples

KINDS = ["mlp", "conv4"]


@pytest.fixture
def three(make, draw, one):
    """Three networks of a kind, stacked and single, with a learner (for its loss) and a task."""

    def build(kind):
        learner = make(MAML, kind, inner_steps=1, eval_steps=1, first_order=False)
        nets = [make(MAML, kind, seed=s, inner_steps=1, eval_steps=1, first_order=False).net for s in (1, 2, 3)]
        weights = {name: torch.stack([dict(n.named_parameters())[name] for n in nets]) for name in dict_of(learner.net)}
        return learner, nets, {name: w.detach() for name, w in weights.items()}, one(draw(kind))

    return build


def dict_of(net):
    return dict(net.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_the_networks_own(three, kind):
    learner, nets, weights, task = three(kind)
    predicted = predict_by_all(learner, learner.net, weights, task.support, torch.ones(()))(task.query.x)
    assert isinstance(predicted, Samples) and predicted.variance == 1
    expected = torch.stack([net(task.query.x) for net in nets])
    torch.testing.assert_close(predicted.values, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_each_networks_own(three, kind):
    learner, nets, weights, task = three(kind)
    steps = list(descend_all(learner, learner.net, weights, task.support, 2, learner.inner_lr, False))
    assert len(steps) == 3
    for m, net in enumerate(nets):
        for step in steps[1:]:
            loss = learner.loss(net(task.support.x), task.support.y)
            gradient = dict(zip(dict_of(net), torch.autograd.grad(loss, list(net.parameters())), strict=True))
            with torch.no_grad():
                for name, p in net.named_parameters():
                    p -= learner.inner_lr * gradient[name]
                    torch.testing.assert_close(step[name][m], p.detach(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_they_go_through_another_vmap(three, draw, kind):
    learner, _, weights, _ = three(kind)
    batch = draw(kind)

    def steps(x, y):
        *_, last = descend_all(learner, learner.net, weights, Examples(x, y), 1, learner.inner_lr, False)
        return last

    batched = torch.vmap(steps)(*batch.support)
    for t in range(len(batch.support.x)):
        for name, w in steps(batch.support.x[t], batch.support.y[t]).items():
            torch.testing.assert_close(batched[name][t], w, rtol=1e-8, atol=1e-10)


def test_first_order_treats_the_gradient_as_a_constant(three):
    learner, _, weights, task = three("mlp")

    def derivative(first_order):
        start = {name: w.clone().requires_grad_() for name, w in weights.items()}
        *_, last = descend_all(learner, learner.net, start, task.support, 1, learner.inner_lr, first_order)
        return torch.autograd.grad(sum(w.sum() for w in last.values()), list(start.values()))

    assert all(torch.equal(slope, torch.ones_like(slope)) for slope in derivative(True))
    assert any((slope - 1).abs().max() > 1e-3 for slope in derivative(False))


def test_the_log_likelihood_is_a_sum_in_nats():
    generator = torch.Generator().manual_seed(0)
    mean, y = torch.randn(2, 7, 2, generator=generator).double()
    variance = torch.tensor(0.3, dtype=torch.float64)
    expected = torch.distributions.Normal(mean, variance.sqrt()).log_prob(y).sum()
    torch.testing.assert_close(log_likelihood(mean, y, variance), expected)
    labels = torch.tensor([0, 1, 1, 0, 0, 1, 1])
    expected = mean.log_softmax(-1)[torch.arange(7), labels].sum()
    torch.testing.assert_close(log_likelihood(mean, labels, variance), expected)


def test_stacked_parameters_are_those_of_all():
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)) for _ in range(3)]
    separate = [{name: p.detach().clone() for name, p in net.named_parameters()} for net in nets]
    stacked = stack_parameters(nets)
    assert list(dict_of(stacked)) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    for name, p in stacked.named_parameters():
        assert isinstance(p, nn.Parameter)
        torch.testing.assert_close(p.detach(), torch.stack([weights[name] for weights in separate]), rtol=0, atol=0)


def test_for_each_repeats():
    assert torch.equal(for_each(3, torch.arange(4)), torch.arange(4).repeat(3, 1))
