"""MTL against a network and an inner loop by hand; frozen parts, hard tasks, and resuming."""

import copy

import pytest
import torch
import torch.nn.functional as F
import toy
from torch import nn

from metarun.algos.mtl import MTL
from metarun.evaluation.evaluate import evaluate
from metarun.fused.replicas import fusion_blocker
from metarun.layers.norm import batch_norms
from metarun.learner.hard_classes import HardClassMemory
from metarun.learner.learner import Learner
from metarun.tasks import Examples, Task, TaskOfClasses
from metarun.training.loop import TrainState, fit, stage_at

ARGS = {"base_classes": 9, "pretrain_share": 0.5, "inner_lr": 0.25, "inner_steps": 2, "eval_steps": 3}
ARGS |= {"first_order": False, "scale_lr": 0.125, "theta_lr": 0.5, "hard_every": 0, "hard_memory": 20}
CONV = {"filters": 4, "blocks": 2, "norm": "running"}


def mtl(backbone=None, outputs=5, seed=0, perturbed=False, **changes):
    """MTL on two convolutional blocks; `perturbed`: with other than the initial statistics, scales and shifts."""
    torch.manual_seed(seed)
    learner = MTL(backbone or toy.conv4((1, 16, 16), **CONV), outputs, F.cross_entropy, **(ARGS | changes)).double()
    if perturbed:
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for p in (*learner.scale_shift.parameters(), *learner.theta.parameters()):
                p.add_(0.3 * torch.randn(p.shape, generator=generator).double())
            for norm in batch_norms(learner):
                norm.running_mean.normal_(generator=generator)
                norm.running_var.uniform_(0.5, 2.0, generator=generator)
                norm.weight.normal_(1.0, 0.3, generator=generator)
                norm.bias.normal_(generator=generator)
    return learner


def mini_batches(tasks=3, b=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(tasks, b, 1, 16, 16, generator=generator, dtype=torch.float64)
    return Examples(x, torch.randint(9, (tasks, b), generator=generator))


def embedded_by_hand(learner, x):
    """The scaled and shifted network, layer by layer, normalised by the running statistics."""
    scale_shift = learner.scale_shift
    for block in (0, 1):
        conv, norm = learner.net.blocks[3 * block], learner.net.blocks[3 * block + 1]
        weight = conv.weight.detach() * scale_shift.scales[block].expand_as(conv.weight)
        x = F.conv2d(x, weight, conv.bias.detach() + scale_shift.shifts[block], stride=2, padding=1)
        x = (x - norm.running_mean.view(-1, 1, 1)) / (norm.running_var.view(-1, 1, 1) + 1e-5).sqrt()
        x = (x * norm.weight.detach().view(-1, 1, 1) + norm.bias.detach().view(-1, 1, 1)).relu()
    return x.mean((2, 3))


def loss_by_hand(learner, batch, steps=2):
    losses = []
    for x, y, query_x, query_y in zip(*batch.support, *batch.query, strict=True):
        z, w, b = embedded_by_hand(learner, x), learner.theta.weight, learner.theta.bias
        for _ in range(steps):
            loss = F.cross_entropy(z @ w.T + b, y)
            gw, gb = torch.autograd.grad(loss, [w, b], create_graph=not learner.first_order, retain_graph=True)
            w, b = w - 0.25 * gw, b - 0.25 * gb
        losses.append(F.cross_entropy(embedded_by_hand(learner, query_x) @ w.T + b, query_y))
    return torch.stack(losses).mean()


def transferred(learner):
    """The parameters that stage 2 learns."""
    return [*learner.scale_shift.parameters(), *learner.theta.parameters()]


# -------------------------------------------------------------------------------------------- learning over tasks


@pytest.mark.parametrize("first_order", [False, True])
def test_loss_and_meta_gradient_are_those_of_a_hand_written_network_and_loop(first_order, draw):
    learner, batch = mtl(perturbed=True, first_order=first_order).train(), draw("conv4")
    expected = loss_by_hand(learner, batch)
    gradients = torch.autograd.grad(expected, transferred(learner))
    loss = learner(batch).mean()
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    for p, gradient in zip(transferred(learner), gradients, strict=True):
        assert gradient.abs().max() > 1e-6
        torch.testing.assert_close(p.grad, gradient, rtol=1e-8, atol=1e-13)
    assert all(p.grad is None for module in (learner.net, learner.classifier) for p in module.parameters())


def test_first_order_drops_the_derivative_of_the_inner_steps(draw):
    gradients = []
    for first_order in (False, True):
        learner = mtl(perturbed=True, first_order=first_order)
        learner(draw("conv4")).mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in transferred(learner)]))
    assert (gradients[0] - gradients[1]).norm() > 0.05 * gradients[0].norm()


def test_batch_statistics_are_those_of_each_task(draw):
    """With norm `batch`, support and query images of a task share a batch in training, as in `Embedding`."""
    learner = mtl(toy.conv4((1, 16, 16), **CONV | {"norm": "batch"}))
    batch = draw("conv4")
    losses = learner(batch)
    task_by_task = [
        learner(Task(*(Examples(*(leaf[t : t + 1] for leaf in examples)) for examples in batch))) for t in range(3)
    ]
    torch.testing.assert_close(losses, torch.cat(task_by_task), rtol=1e-9, atol=0)


def test_a_single_task_and_its_predictor_agree_with_the_batch(draw, one):
    learner, batch = mtl(perturbed=True).train(), draw("conv4")
    learner.ways = 5
    for t, loss in enumerate(learner(batch)):
        task = Task(*(Examples(*(leaf[t] for leaf in examples)) for examples in batch))
        torch.testing.assert_close(learner.meta_loss(task), loss, rtol=1e-10, atol=0)
        prediction = learner.adapt(task.support)(task.query.x)
        torch.testing.assert_close(F.cross_entropy(prediction, task.query.y), loss, rtol=1e-10, atol=0)
        *_, last = learner.trajectory(task.support, 2)
        torch.testing.assert_close(last(task.query.x), prediction, rtol=1e-10, atol=0)


def test_vmap_and_task_micro_batches_equal_a_loop(draw):
    def gradient(learner, *batches):
        for batch in batches:
            learner(batch).sum().backward()
        return torch.cat([p.grad.flatten() for p in transferred(learner)])

    batch = draw("conv4")
    vectorized = gradient(mtl(perturbed=True), batch)
    looped = mtl(perturbed=True)
    looped.vectorized = False
    torch.testing.assert_close(gradient(looped, batch), vectorized, rtol=1e-9, atol=1e-12)
    micro_batches = [torch.utils._pytree.tree_map(lambda leaf, s=s: leaf[s], batch) for s in (slice(2), slice(2, 3))]
    torch.testing.assert_close(gradient(mtl(perturbed=True), *micro_batches), vectorized, rtol=1e-9, atol=1e-12)


def test_the_inner_loop_moves_the_classifier_and_nothing_else(draw, one):
    learner, task = mtl(perturbed=True).eval(), one(draw("conv4"))
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    z, query = embedded_by_hand(learner, task.support.x), embedded_by_hand(learner, task.query.x)
    w, b = learner.theta.weight, learner.theta.bias
    for predict in learner.trajectory(task.support, 3):
        torch.testing.assert_close(predict(task.query.x), query @ w.T + b, rtol=1e-9, atol=1e-12)
        gw, gb = torch.autograd.grad(F.cross_entropy(z @ w.T + b, task.support.y), [w, b])
        w, b = (w - 0.25 * gw).detach().requires_grad_(), (b - 0.25 * gb).detach().requires_grad_()
        z, query = z.detach(), query.detach()
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


def test_initially_the_transferred_network_is_the_pretrained_one(one, draw):
    learner, task = mtl(), one(draw("conv4"))
    learner(mini_batches()).mean().backward()
    learner.after_step()  # so that the running statistics are not the initial ones
    learner.train()
    z = learner.embed(task.query.x[None])[0]
    assert torch.equal(z, learner.features(task.support)(task.query.x))
    assert torch.equal(z, learner.net.eval()(task.query.x))
    assert not torch.allclose(z, learner.net.train()(task.query.x))


def test_predictions_do_not_depend_on_other_queries(draw, one):
    learner, task = mtl(perturbed=True).train(), one(draw("conv4"))
    predict = learner.adapt(task.support)
    torch.testing.assert_close(predict(task.query.x)[3:4], predict(task.query.x[3:4].clone()), rtol=1e-10, atol=1e-12)


# -------------------------------------------------------------------------------------------------- two stages


def optimizer_with_decay_and_momentum():
    """It would move parameters without gradient, by weight decay and by the momentum of earlier steps."""

    def make(params, lr):
        return torch.optim.SGD(params, lr=lr, momentum=0.9, weight_decay=0.1)

    meta_optimizer = toy.sgd(lr=0.01)
    meta_optimizer.optimizer = make
    return meta_optimizer


def state_by_stage(learner):
    """Copies of what each stage learns, by stage, with running statistics."""
    first = {**dict(learner.net.state_dict()), **{f"C.{n}": p for n, p in learner.classifier.state_dict().items()}}
    second = {**learner.scale_shift.state_dict(), **{f"theta.{n}": p for n, p in learner.theta.state_dict().items()}}
    return [{name: value.clone() for name, value in state.items()} for state in (first, second)]


def unchanged(a, b):
    return [name for name in a if torch.equal(a[name], b[name])]


def test_each_stage_leaves_what_the_other_learns_bit_for_bit(glyphs):
    learner = mtl(toy.conv4(**CONV), base_classes=60, scale_lr=0.01, theta_lr=0.01)
    meta_optimizer = optimizer_with_decay_and_momentum()
    train_state = TrainState.create(learner, meta_optimizer, toy.CPU, 0)
    start = state_by_stage(learner)
    steps = fit(train_state, glyphs(), meta_optimizer, 8, 2)
    for _ in range(4):
        assert isinstance(next(steps).batch, Examples)
    middle = state_by_stage(learner)
    assert unchanged(start[0], middle[0]) == [] and "blocks.norm1.running_mean" in middle[0]
    assert unchanged(start[1], middle[1]) == list(start[1])
    for step in steps:
        assert isinstance(step.batch, Task)
    end = state_by_stage(learner)
    assert unchanged(middle[0], end[0]) == list(middle[0])  # convolutions, batch norms with statistics, classifier
    assert unchanged(middle[1], end[1]) == []


def test_scales_and_classifier_have_their_own_learning_rates_which_follow_the_schedule(glyphs):
    learner = mtl(toy.conv4(**CONV), base_classes=60, pretrain_share=0.0)
    meta_optimizer = toy.sgd(lr=9.0, scheduler=toy.linear(4))
    steps = fit(TrainState.create(learner, meta_optimizer, toy.CPU, 0), glyphs(), meta_optimizer, 4, 2)
    for factor in (1.0, 0.75, 0.5):
        before = [p.detach().clone() for p in transferred(learner)]
        step = next(steps)
        after = [p.detach().clone() for p in transferred(learner)]
        with torch.no_grad():
            for p, old in zip(transferred(learner), before, strict=True):
                p.copy_(old)
        learner.zero_grad()
        learner(step.batch).mean().backward()
        rates = [0.125] * 4 + [0.5] * 2  # two scales, two shifts; weight and bias of the classifier
        for p, new, rate in zip(transferred(learner), after, rates, strict=True):
            torch.testing.assert_close(new, p.detach() - factor * rate * p.grad, rtol=1e-9, atol=1e-14)
            with torch.no_grad():
                p.copy_(new)


def test_pretraining_has_its_share():
    for share, streams in ((0.25, ["batches"] * 2 + ["episodes"] * 6), (0.0, ["episodes"] * 8), (1.0, ["batches"] * 8)):
        stages = mtl(pretrain_share=share).stages
        assert [stage_at(stages, i, 8).stream for i in range(8)] == streams
    assert [stage.objectives for stage in mtl().stages] == [("pretrain",), ("transfer",)]


# --------------------------------------------------------------------------------------------------- hard tasks


def worst_by_hand(learner, batch):
    """The class with the lowest query accuracy of each task, by its predictor."""
    worst = []
    for t in range(len(batch.classes)):
        support, query = (Examples(*(leaf[t] for leaf in examples)) for examples in batch[:2])
        correct = learner.adapt(support)(query.x).argmax(1) == query.y
        accuracies = [float(correct[query.y == k].double().mean()) for k in range(5)]
        worst.append(int(batch.classes[t, accuracies.index(min(accuracies))]))
    return worst


def with_hard_tasks(**changes):
    kwargs = {"base_classes": 60, "hard_every": 2, "hard_memory": 12, "pretrain_share": 0.25} | changes
    return mtl(toy.conv4(**CONV), scale_lr=0.01, theta_lr=0.01, **kwargs)


@pytest.mark.parametrize("task_micro_batch", [None, 3])
def test_hard_tasks_are_sampled_from_the_classes_with_the_lowest_accuracy(task_micro_batch, glyphs):
    learner, meta_optimizer, data = with_hard_tasks(), toy.adam(lr=1e-2), glyphs(train_classes=60)
    train_state = TrainState.create(learner, meta_optimizer, toy.CPU, 0)
    stored, is_hard, before = [], [], copy.deepcopy(learner)
    for step in fit(train_state, data, meta_optimizer, 16, 4, task_micro_batch):
        if isinstance(step.batch, TaskOfClasses):
            classes = set(step.batch.classes.flatten().tolist())
            is_hard.append(classes <= set(stored[:12]))
            if not is_hard[-1]:
                stored = worst_by_hand(before.train(), step.batch) + stored
            expected = (stored + [-1] * 12)[:12]
            assert learner.failures.classes.tolist() == expected
        before = copy.deepcopy(learner)
    assert is_hard == [False, False, True] * 4  # after 4 steps of pre-training
    assert not learner.failures.gathered


def test_evaluation_leaves_the_memory_alone(glyphs):
    learner, data, meta_optimizer = with_hard_tasks(), glyphs(train_classes=60), toy.adam()
    for _ in fit(TrainState.create(learner, meta_optimizer, toy.CPU, 0), data, meta_optimizer, 6, 4):
        pass
    before = {name: value.clone() for name, value in learner.failures.state_dict().items()}
    evaluate(learner, data, "val", 4, 0)
    learner.after_step()
    assert all(torch.equal(value, before[name]) for name, value in learner.failures.state_dict().items())


def test_switched_off_hard_tasks_have_no_effect(glyphs, monkeypatch):
    def trained():
        learner, meta_optimizer = mtl(toy.conv4(**CONV), base_classes=60, scale_lr=0.01), toy.adam()
        for step in fit(TrainState.create(learner, meta_optimizer, toy.CPU, 0), glyphs(), meta_optimizer, 6, 2):
            assert not isinstance(step.batch, TaskOfClasses)
        return learner.state_dict()

    ours = trained()
    for name in ("request_classes", "after_step"):
        monkeypatch.setattr(MTL, name, getattr(Learner, name))
    for name in ("collect", "update", "sample"):
        monkeypatch.setattr(HardClassMemory, name, None)  # a call raises
    without = trained()
    assert all(torch.equal(value, without[name]) for name, value in ours.items())


@pytest.mark.parametrize("stop", [2, 7, 9, 10, 12])
def test_a_resumed_run_equals_an_unbroken_one(stop, glyphs):
    """Stopped in pre-training, before a hard meta-batch (9), after one (10), and in between."""
    data, meta_optimizer = glyphs(train_classes=60), toy.adam(lr=1e-2)

    def create(seed, run_seed):
        learner = with_hard_tasks(seed=seed)
        return learner, TrainState.create(learner, meta_optimizer, toy.CPU, run_seed)

    unbroken, train_state = create(0, 0)
    for step in fit(train_state, data, meta_optimizer, 14, 3):
        if step.iteration == stop:
            weights, state = copy.deepcopy((unbroken.state_dict(), train_state.state_dict()))
    resumed, train_state = create(5, 5)
    resumed.load_state_dict(weights)
    train_state.load_state_dict(state)
    for _ in fit(train_state, data, meta_optimizer, 14, 3):
        pass
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in unbroken.state_dict().items())
    assert (unbroken.failures.classes >= 0).any()


def test_it_is_not_fused():
    for every in (0, 2):
        learner = mtl(toy.mlp((256,)), hard_every=every)
        assert (
            fusion_blocker(TrainState.create(learner, toy.adam(), toy.CPU, 0))
            == "it changes state outside the outer step"
        )


# -------------------------------------------------------------------------------------------------------- other


def test_diagnostics_are_mean_distances_of_scales_and_shifts():
    assert mtl().diagnostics() == {"scale": 0, "shift": 0}
    assert min(mtl(perturbed=True).diagnostics().values()) > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrain_share": 1.5}, "algo.pretrain_share must be from 0 to 1; got 1.5"),
        ({"pretrain_share": -0.1}, "algo.pretrain_share must be from 0 to 1; got -0.1"),
        ({"inner_steps": -1}, "algo.inner_steps must be an integer of at least 0; got -1"),
        ({"eval_steps": 0.5}, "algo.eval_steps must be an integer of at least 0; got 0.5"),
        ({"hard_every": -1}, "algo.hard_every must be an integer of at least 0; got -1"),
        ({"hard_memory": 0}, "algo.hard_memory must be an integer of at least 1; got 0"),
        ({"scale_lr": 0.0}, "algo.scale_lr must be above 0; got 0.0"),
        ({"theta_lr": -1.0}, "algo.theta_lr must be above 0; got -1.0"),
        ({"base_classes": 0}, "base_classes must be .* of at least 1[;,] got 0"),
    ],
)
def test_rejects_invalid_values(changes, message):
    with pytest.raises(ValueError, match=message):
        mtl(**changes)


def test_rejects_a_network_without_weights():
    class Flat(nn.Module):
        def __init__(self, outputs):
            super().__init__()
            self.head = nn.Linear(256, 1) if outputs else nn.Identity()

    with pytest.raises(ValueError, match="convolutions or linear layers"):
        mtl(lambda outputs: Flat(outputs))


@pytest.mark.slow
def test_learns_glyphs(glyphs):
    """Untrained it fails; stage 2 improves on pre-training alone."""
    data = glyphs(queries=10, train_queries=5, batch_size=32)
    kwargs = {"base_classes": 60, "inner_lr": 0.5, "inner_steps": 3, "eval_steps": 3}
    kwargs |= {"scale_lr": 0.03, "theta_lr": 0.01, "pretrain_share": 1 / 6}
    learner = mtl(toy.conv4(filters=16, features="flatten", norm="running"), **kwargs).float()
    meta_optimizer = toy.adam(lr=1e-2)
    accuracies = [evaluate(learner, data, "test", 40, 0).estimate().mean]
    for step in fit(TrainState.create(learner, meta_optimizer, toy.CPU, 0), data, meta_optimizer, 480, 2):
        if step.iteration in (80, 480):
            accuracies.append(evaluate(learner, data, "test", 40, 0).estimate().mean)
    assert accuracies[0] < 0.3 and accuracies[1] < 0.5 < accuracies[2] - 0.02, accuracies
