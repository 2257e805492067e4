"""MetaNet against algorithm 1 example by example, frozen gradients, and itself without its memory."""

import pytest
import torch
import torch.nn.functional as F
import toy
from clusters import one, tasks
from torch import nn

from metarun.algos import metanet
from metarun.algos.metanet import Generator, MetaNet, gradients
from metarun.data.clusters import Clusters
from metarun.evaluation.evaluate import evaluate
from metarun.numerics.gradient_input import preprocess
from metarun.tasks import Examples, Task
from metarun.training.loop import TrainState, fit

ARGS = {"units": 6, "generator": 5, "p": 7.0}


def learner(ways=3, seed=0, backbone=None, **changes):
    """A small learner in float64, with generators whose fast weights matter."""
    torch.manual_seed(seed)
    ours = MetaNet(backbone or toy.mlp((4,), hidden=[8]), ways, F.cross_entropy, **(ARGS | changes)).double()
    for parameter in (*ours.of_task.parameters(), *ours.of_example.parameters()):
        nn.init.normal_(parameter)
    return ours


def gradient_of(first, last, z, y):
    """Gradients of one example's cross-entropy by both weights, by autograd."""
    first, last = (w.detach().clone().requires_grad_() for w in (first, last))
    loss = F.cross_entropy((torch.relu(z.detach() @ first.T) @ last.T)[None], y[None])
    return torch.autograd.grad(loss, (first, last))


def generated(generator, gradient):
    """The generator's layers applied to one coordinate after the other."""
    first, _, second, _, last = generator
    flat = [last(torch.relu(second(torch.relu(first(preprocess(g, 7.0)))))) for g in gradient.flatten()]
    return torch.cat(flat).view(gradient.shape)


def by_hand(ours, task):
    """Algorithm 1: scores of the queries, one by one."""
    slow, (w_1, w_2) = ours.keys.weight, (ours.hidden.weight, ours.classes.weight)
    u, b = ours.net.u, ours.net.b
    support = list(zip(task.support.x, task.support.y, strict=True))
    by_example = [generated(ours.of_task, gradient_of(slow, ours.labels, u(x[None])[0], y)[0]) for x, y in support]
    fast = torch.stack(by_example).mean(0)
    keys = [u(x[None])[0] @ slow.T + u(x[None])[0] @ fast.T for x, _ in support]
    memory = [[generated(ours.of_example, g) for g in gradient_of(w_1, w_2, b(x[None])[0], y)] for x, y in support]
    scores, active = [], []
    for x in task.query.x:
        r, z = u(x[None])[0] @ (slow + fast).T, b(x[None])[0]
        a = torch.stack([r @ key / (r.norm() * key.norm()) for key in keys]).softmax(0)
        fast_1, fast_2 = (sum(a_i * weights[k] for a_i, weights in zip(a, memory, strict=True)) for k in (0, 1))
        active.append(fast_1 @ z > 0)
        s = torch.relu(w_1 @ z) + torch.relu(fast_1 @ z)
        scores.append(w_2 @ s + fast_2 @ s)
    assert 0 < torch.stack(active).double().mean() < 1  # the ReLU after the fast weights matters
    return torch.stack(scores)


@pytest.mark.parametrize("shots", [1, 2])
def test_it_equals_algorithm_1(shots):
    ours, task = learner(), one(tasks(shots))
    scores = ours.adapt(task.support)(task.query.x)
    torch.testing.assert_close(scores, by_hand(ours, task), rtol=1e-9, atol=1e-11)
    loss = F.cross_entropy(by_hand(ours, task), task.query.y)
    torch.testing.assert_close(ours.meta_loss(task), loss, rtol=1e-9, atol=1e-11)


def test_the_meta_gradient_is_that_of_algorithm_1():
    ours, task = learner(), one(tasks())
    meta_gradients = []
    for loss in (ours.meta_loss(task), F.cross_entropy(by_hand(ours, task), task.query.y)):
        ours.zero_grad()
        loss.backward()
        meta_gradients.append(torch.cat([p.grad.flatten() for p in ours.parameters()]))
    torch.testing.assert_close(*meta_gradients, rtol=1e-8, atol=1e-11)


def test_gradients_are_those_of_each_example():
    generator = torch.Generator().manual_seed(0)
    z, first, last = (torch.randn(*shape, generator=generator).double() for shape in ((7, 4), (6, 4), (3, 6)))
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    results = gradients(z, F.one_hot(y, 3).double(), first, last)
    for i in range(7):
        for ours, expected in zip(results, gradient_of(first, last, z[i], y[i]), strict=True):
            torch.testing.assert_close(ours[i], expected, rtol=1e-10, atol=1e-12)


def test_a_generator_maps_each_coordinate_separately():
    torch.manual_seed(0)
    generator = Generator(5, 7.0)
    gradient = torch.randn(2, 3, 4)
    out = generator(gradient)
    assert out.shape == gradient.shape
    gradient[1, 2, 0] = -gradient[1, 2, 0]
    change = (generator(gradient) - out).abs()
    assert change[1, 2, 0] > 1e-4
    assert (change > 0).sum() == 1


def generator_inputs(ours, task):
    inputs = {}
    for name in ("of_task", "of_example"):
        getattr(ours, name).register_forward_hook(
            lambda module, args, result, name=name: inputs.setdefault(name, []).append(args[0])
        )
    ours.meta_loss(task)
    return inputs


def test_generators_see_gradients_of_support_examples_only():
    ours, task = learner(), one(tasks(shots=2))
    inputs = generator_inputs(ours, task)
    assert [g.shape for g in inputs["of_task"]] == [(6, 6, 8)]
    assert [g.shape for g in inputs["of_example"]] == [(6, 6, 8), (6, 3, 6)]
    assert not any(g.requires_grad for tensors in inputs.values() for g in tensors)
    other = generator_inputs(learner(), task._replace(query=Examples(task.query.x + 1, 2 - task.query.y)))
    for name in inputs:
        for a, b in zip(inputs[name], other[name], strict=True):
            assert torch.equal(a, b)
    y = task.support.y.clone()
    y[4] = (y[4] + 1) % 3
    other = generator_inputs(learner(), task._replace(support=Examples(task.support.x, y)))
    for name in inputs:
        change = (inputs[name][0] - other[name][0]).abs().flatten(1).amax(1)
        assert change[4] > 1e-4 and (change > 0).sum() == 1


def test_no_gradient_flows_through_inner_gradients(monkeypatch, slopes_agree, loss_and_gradient):
    ours, task = learner(), one(tasks())
    batch = Task(*(Examples(*(leaf[None] for leaf in examples)) for examples in task))
    _, gradient = loss_and_gradient(ours, batch)
    start = nn.utils.parameters_to_vector(ours.parameters()).detach()
    with pytest.raises(AssertionError):  # finite differences include the dependence through inner gradients
        slopes_agree(ours, batch)
    nn.utils.vector_to_parameters(start, ours.parameters())
    results = []

    def recording(*args):
        results.append(gradients(*args))
        return results[-1]

    with monkeypatch.context() as patch:
        patch.setattr(metanet, "gradients", recording)
        ours.meta_loss(task)
    calls = iter(range(10**6))
    monkeypatch.setattr(metanet, "gradients", lambda *args: results[next(calls) % 2])
    _, frozen = loss_and_gradient(ours, batch)
    torch.testing.assert_close(gradient, frozen, rtol=1e-12, atol=1e-14)
    slopes_agree(ours, batch)


def test_vmap_and_images_in_one_batch_equal_a_loop(draw, backbones, loss_and_gradient):
    ours, batch = learner(5, backbone=backbones["conv4"]), draw("conv4")
    vectorized = loss_and_gradient(ours, batch)
    ours.vectorized = False
    torch.testing.assert_close(loss_and_gradient(ours, batch), vectorized, rtol=1e-9, atol=1e-11)
    task_by_task = torch.stack([ours.meta_loss(one(batch, t)) for t in range(3)])
    torch.testing.assert_close(task_by_task, vectorized[0], rtol=1e-9, atol=1e-11)


def test_every_example_affects_predictions():
    ours, task = learner(), one(tasks(shots=2))
    before = ours.adapt(task.support)(task.query.x)
    for i in range(6):
        x = task.support.x.clone()
        x[i] += 0.5
        assert (ours.adapt(Examples(x, task.support.y))(task.query.x) - before).abs().min() > 1e-8


def test_the_label_weights_of_the_representation_are_saved_and_not_trained():
    ours = learner()
    assert "labels" in ours.state_dict()
    assert "labels" not in dict(ours.named_parameters())
    assert ours.labels.abs().max() <= 6**-0.5
    assert not torch.equal(ours.labels, learner(seed=1).labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units": 0}, "algo.units must be an integer of at least 1; got 0"),
        ({"generator": 2.5}, "algo.generator must be an integer of at least 1; got 2.5"),
        ({"p": -1.0}, "algo.p must be above 0; got -1.0"),
    ],
)
def test_rejects_invalid_values(changes, message):
    with pytest.raises(ValueError, match=message):
        learner(**changes)


@pytest.fixture(scope="module")
def trained():
    """A learner trained on 5-way 1-shot clusters, its data, and its accuracy before training."""
    torch.manual_seed(0)
    kwargs = {"dimension": 8, "noise": 0.4, "ways": 5, "shots": 1, "queries": 4, "instances": 5, "device": "cpu"}
    data, meta_optimizer = Clusters(**kwargs), toy.adam(lr=1e-2, max_grad_norm=10.0)
    ours = MetaNet(toy.mlp((8,), hidden=[16], activation="relu"), 5, F.cross_entropy, units=16, generator=10, p=7.0)
    before = evaluate(ours, data, "test", 100, 0).estimate().mean
    for _ in fit(TrainState.create(ours, meta_optimizer, torch.device("cpu"), 0), data, meta_optimizer, 150, 4):
        pass
    return ours, data, before


def accuracy(ours, data):
    return evaluate(ours, data, "test", 200, 0).estimate().mean


@pytest.mark.slow
def test_it_learns(trained):
    ours, data, before = trained
    assert before < 0.6
    assert accuracy(ours, data) > 0.9


@pytest.mark.slow
def test_with_shuffled_keys_it_guesses(trained, monkeypatch):
    ours, data, _ = trained
    attention, generator = ours.attention, torch.Generator().manual_seed(0)

    def shuffled(query_keys, keys):
        return attention(query_keys, keys[torch.randperm(5, generator=generator)])

    monkeypatch.setattr(ours, "attention", shuffled)
    assert abs(accuracy(ours, data) - 0.2) < 0.05


def test_without_fast_weights_it_guesses(trained, monkeypatch):
    ours, data, _ = trained
    monkeypatch.setattr(ours.of_example, "forward", torch.zeros_like)
    assert abs(accuracy(ours, data) - 0.2) < 0.05
