"""Is it MTL? Against a network and an inner loop by hand; what is frozen stays so; hard tasks; resuming."""

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

NUMBERS = {"base_classes": 9, "pretrain_share": 0.5, "inner_lr": 0.25, "inner_steps": 2, "eval_steps": 3}
NUMBERS |= {"first_order": False, "scale_lr": 0.125, "theta_lr": 0.5, "hard_every": 0, "hard_memory": 20}
CONV = {"filters": 4, "blocks": 2, "norm": "running"}


def mtl(backbone=None, outputs=5, seed=0, moved=False, **changes):
    """MTL on two blocks of convolution; `moved`: statistics, scales and shifts are not where they start."""
    torch.manual_seed(seed)
    learner = MTL(backbone or toy.conv4((1, 16, 16), **CONV), outputs, F.cross_entropy, **(NUMBERS | changes)).double()
    if moved:
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


def flat(tasks=3, b=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(tasks, b, 1, 16, 16, generator=generator, dtype=torch.float64)
    return Examples(x, torch.randint(9, (tasks, b), generator=generator))


def embedded_by_hand(learner, x, kept=True):
    """The scaled and shifted network, layer by layer; `kept`: normalised by the running statistics."""
    parts = learner.scale_shift
    for number in (1, 2):
        conv, norm = learner.net.blocks[3 * number - 3], learner.net.blocks[3 * number - 2]
        weight = conv.weight.detach() * parts.scales[number - 1].expand_as(conv.weight)
        x = F.conv2d(x, weight, conv.bias.detach() + parts.shifts[number - 1], stride=2, padding=1)
        mean, var = (norm.running_mean, norm.running_var) if kept else (x.mean((0, 2, 3)), x.var((0, 2, 3), False))
        x = (x - mean.view(-1, 1, 1)) / (var.view(-1, 1, 1) + 1e-5).sqrt()
        x = (x * norm.weight.detach().view(-1, 1, 1) + norm.bias.detach().view(-1, 1, 1)).relu()
    return x.mean((2, 3))


def loss_by_hand(learner, batch, steps=2, kept=True):
    losses = []
    for x, y, query_x, query_y in zip(*batch.support, *batch.query, strict=True):
        z, w, b = embedded_by_hand(learner, x, kept), learner.theta.weight, learner.theta.bias
        for _ in range(steps):
            loss = F.cross_entropy(z @ w.T + b, y)
            gw, gb = torch.autograd.grad(loss, [w, b], create_graph=not learner.first_order, retain_graph=True)
            w, b = w - 0.25 * gw, b - 0.25 * gb
        losses.append(F.cross_entropy(embedded_by_hand(learner, query_x, kept) @ w.T + b, query_y))
    return torch.stack(losses).mean()


def learned(learner):
    return [*learner.scale_shift.parameters(), *learner.theta.parameters()]


# -------------------------------------------------------------------------------------------- learning over tasks


@pytest.mark.parametrize("first_order", [False, True])
def test_loss_and_meta_gradient_are_those_of_a_hand_written_network_and_loop(first_order, draw):
    learner, batch = mtl(moved=True, first_order=first_order).train(), draw("conv4")
    expected = loss_by_hand(learner, batch)
    gradients = torch.autograd.grad(expected, learned(learner))
    loss = learner(batch).mean()
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    for p, gradient in zip(learned(learner), gradients, strict=True):
        assert gradient.abs().max() > 1e-6
        torch.testing.assert_close(p.grad, gradient, rtol=1e-8, atol=1e-13)
    assert all(p.grad is None for part in (learner.net, learner.classifier) for p in part.parameters())


def test_the_derivative_of_the_inner_steps_counts_unless_it_is_dropped(draw):
    gradients = []
    for first_order in (False, True):
        learner = mtl(moved=True, first_order=first_order)
        learner(draw("conv4")).mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in learned(learner)]))
    assert (gradients[0] - gradients[1]).norm() > 0.05 * gradients[0].norm()


def test_with_batch_statistics_they_are_each_sets_or_tasks_own(draw):
    """Of norm `batch` nothing is kept; in training support and query images share a batch, as in `Embedding`."""
    learner = mtl(toy.conv4((1, 16, 16), **CONV | {"norm": "batch"}))
    batch = draw("conv4")
    whole = learner(batch)
    alone = [learner(Task(*(Examples(*(leaf[t : t + 1] for leaf in part)) for part in batch))) for t in range(3)]
    torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-9, atol=0)


def test_a_task_alone_and_its_predictor_say_the_same_as_the_batch(draw, one):
    learner, batch = mtl(moved=True).train(), draw("conv4")
    learner.ways = 5
    for t, loss in enumerate(learner(batch)):
        task = Task(*(Examples(*(leaf[t] for leaf in part)) for part in batch))
        torch.testing.assert_close(learner.meta_loss(task), loss, rtol=1e-10, atol=0)
        predicted = learner.adapt(task.support)(task.query.x)
        torch.testing.assert_close(F.cross_entropy(predicted, task.query.y), loss, rtol=1e-10, atol=0)
        *_, last = learner.trajectory(task.support, 2)
        torch.testing.assert_close(last(task.query.x), predicted, rtol=1e-10, atol=0)


def test_vmap_and_chunks_are_a_loop(draw):
    def gradient(learner, *batches):
        for batch in batches:
            learner(batch).sum().backward()
        return torch.cat([p.grad.flatten() for p in learned(learner)])

    batch = draw("conv4")
    together = gradient(mtl(moved=True), batch)
    looped = mtl(moved=True)
    looped.vectorized = False
    torch.testing.assert_close(gradient(looped, batch), together, rtol=1e-9, atol=1e-12)
    parts = [torch.utils._pytree.tree_map(lambda leaf, s=s: leaf[s], batch) for s in (slice(0, 2), slice(2, 3))]
    torch.testing.assert_close(gradient(mtl(moved=True), *parts), together, rtol=1e-9, atol=1e-12)


def test_the_inner_loop_moves_the_classifier_and_nothing_else(draw, one):
    learner, task = mtl(moved=True).eval(), one(draw("conv4"))
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    z, query = embedded_by_hand(learner, task.support.x), embedded_by_hand(learner, task.query.x)
    w, b = learner.theta.weight, learner.theta.bias
    for predict in learner.trajectory(task.support, 3):
        torch.testing.assert_close(predict(task.query.x), query @ w.T + b, rtol=1e-9, atol=1e-12)
        gw, gb = torch.autograd.grad(F.cross_entropy(z @ w.T + b, task.support.y), [w, b])
        w, b = (w - 0.25 * gw).detach().requires_grad_(), (b - 0.25 * gb).detach().requires_grad_()
        z, query = z.detach(), query.detach()
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


def test_at_first_the_transferred_network_is_the_pretrained_one(one, draw):
    learner, task = mtl(), one(draw("conv4"))
    learner(flat()).mean().backward()
    learner.after_step()  # so that the running statistics are those of some images
    learner.train()
    z = learner.embed(task.query.x[None])[0]
    assert torch.equal(z, learner.features(task.support)(task.query.x))
    assert torch.equal(z, learner.net.eval()(task.query.x))
    assert not torch.allclose(z, learner.net.train()(task.query.x))


def test_a_query_is_normalised_by_no_other_image(draw, one):
    learner, task = mtl(moved=True).train(), one(draw("conv4"))
    predict = learner.adapt(task.support)
    torch.testing.assert_close(predict(task.query.x)[3:4], predict(task.query.x[3:4].clone()), rtol=1e-10, atol=1e-12)


# -------------------------------------------------------------------------------------------------- two stages


def harsh():
    """An optimizer that would move what has no gradient: by weight decay, and by the momentum of earlier steps."""

    def make(params, lr):
        return torch.optim.SGD(params, lr=lr, momentum=0.9, weight_decay=0.1)

    meta_optimizer = toy.sgd(lr=0.01)
    meta_optimizer.optimizer = make
    return meta_optimizer


def components_of(learner):
    """Copies of what each stage learns, by stage; and running statistics."""
    frozen = {**dict(learner.net.state_dict()), **{f"C.{n}": p for n, p in learner.classifier.state_dict().items()}}
    free = {**learner.scale_shift.state_dict(), **{f"theta.{n}": p for n, p in learner.theta.state_dict().items()}}
    return [{name: value.clone() for name, value in part.items()} for part in (frozen, free)]


def same(a, b):
    return [name for name in a if torch.equal(a[name], b[name])]


def test_each_stage_learns_its_own_part_and_the_other_one_stays_bit_for_bit(glyphs):
    learner = mtl(toy.conv4(**CONV), base_classes=60, scale_lr=0.01, theta_lr=0.01)
    training, meta_optimizer = TrainState.create(learner, harsh(), toy.CPU, 0), harsh()
    start = components_of(learner)
    steps = fit(training, glyphs(), meta_optimizer, 8, 2)
    for _ in range(4):
        assert isinstance(next(steps).batch, Examples)
    middle = components_of(learner)
    assert same(start[0], middle[0]) == [] and "blocks.norm1.running_mean" in middle[0]
    assert same(start[1], middle[1]) == list(start[1])
    for step in steps:
        assert isinstance(step.batch, Task)
    end = components_of(learner)
    assert same(middle[0], end[0]) == list(middle[0])  # convolutions, batch norms' weights and statistics, classifier
    assert same(middle[1], end[1]) == []


def test_scales_and_classifier_have_rates_of_their_own_which_follow_the_schedule(glyphs):
    learner = mtl(toy.conv4(**CONV), base_classes=60, pretrain_share=0.0)
    meta_optimizer = toy.sgd(lr=9.0, scheduler=toy.linear(4))
    steps = fit(TrainState.create(learner, meta_optimizer, toy.CPU, 0), glyphs(), meta_optimizer, 4, 2)
    for factor in (1.0, 0.75, 0.5):
        before = [p.detach().clone() for p in learned(learner)]
        step = next(steps)
        after = [p.detach().clone() for p in learned(learner)]
        with torch.no_grad():
            for p, old in zip(learned(learner), before, strict=True):
                p.copy_(old)
        learner.zero_grad()
        learner(step.batch).mean().backward()
        rates = [0.125] * 4 + [0.5] * 2  # two scales, two shifts; weight and bias of the classifier
        for p, new, rate in zip(learned(learner), after, rates, strict=True):
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
    """Of each task the class with the fewest right answers, by its predictor."""
    found = []
    for t in range(len(batch.classes)):
        support, query = (Examples(*(leaf[t] for leaf in part)) for part in batch[:2])
        right = learner.adapt(support)(query.x).argmax(1) == query.y
        shares = [float(right[query.y == k].double().mean()) for k in range(5)]
        found.append(int(batch.classes[t, shares.index(min(shares))]))
    return found


def hard(**changes):
    given = {"base_classes": 60, "hard_every": 2, "hard_memory": 12, "pretrain_share": 0.25} | changes
    return mtl(toy.conv4(**CONV), scale_lr=0.01, theta_lr=0.01, **given)


@pytest.mark.parametrize("chunk", [None, 3])
def test_hard_tasks_are_drawn_from_the_classes_that_did_worst(chunk, glyphs):
    learner, meta_optimizer = hard(), toy.adam(lr=1e-2)
    steps = fit(
        TrainState.create(learner, meta_optimizer, toy.CPU, 0), glyphs(train_classes=60), meta_optimizer, 16, 4, chunk
    )
    remembered, kinds, copies = [], [], [copy.deepcopy(learner)]
    for step in steps:
        if isinstance(step.batch, TaskOfClasses):
            classes = set(step.batch.classes.flatten().tolist())
            kinds.append(classes <= set(remembered[:12]))
            if not kinds[-1]:
                remembered = worst_by_hand(copies[-1].train(), step.batch) + remembered
            expected = (remembered + [-1] * 12)[:12]
            assert learner.failures.classes.tolist() == expected
        copies = [copy.deepcopy(learner)]
    assert kinds == [False, False, True] * 4  # after 4 steps of pre-training
    assert not learner.failures.gathered


def test_evaluation_leaves_the_memory_alone(glyphs):
    learner, data, meta_optimizer = hard(), glyphs(train_classes=60), toy.adam()
    for _ in fit(TrainState.create(learner, meta_optimizer, toy.CPU, 0), data, meta_optimizer, 6, 4):
        pass
    before = {name: value.clone() for name, value in learner.failures.state_dict().items()}
    evaluate(learner, data, "val", 4, 0)
    learner.after_step()
    assert all(torch.equal(value, before[name]) for name, value in learner.failures.state_dict().items())


def test_switched_off_it_is_as_if_there_were_no_hard_tasks(glyphs, monkeypatch):
    def trained():
        learner, meta_optimizer = mtl(toy.conv4(**CONV), base_classes=60, scale_lr=0.01), toy.adam()
        for step in fit(TrainState.create(learner, meta_optimizer, toy.CPU, 0), glyphs(), meta_optimizer, 6, 2):
            assert not isinstance(step.batch, TaskOfClasses)
        return learner.state_dict()

    ours = trained()
    for name in ("wishes", "after_step"):
        monkeypatch.setattr(MTL, name, getattr(Learner, name))
    for name in ("gather", "take_in", "wish"):
        monkeypatch.setattr(HardClassMemory, name, None)  # to call it is an error
    without = trained()
    assert all(torch.equal(value, without[name]) for name, value in ours.items())


@pytest.mark.parametrize("stop", [2, 7, 9, 10, 12])
def test_a_resumed_run_equals_an_unbroken_one(stop, glyphs):
    """Stopped in pre-training, before a hard meta-batch (9), after one (10), and between."""
    data, meta_optimizer = glyphs(train_classes=60), toy.adam(lr=1e-2)

    def begin(seed, run_seed):
        learner = hard(seed=seed)
        return learner, TrainState.create(learner, meta_optimizer, toy.CPU, run_seed)

    whole, training = begin(0, 0)
    for step in fit(training, data, meta_optimizer, 14, 3):
        if step.iteration == stop:
            weights, state = copy.deepcopy((whole.state_dict(), training.state_dict()))
    resumed, training = begin(5, 5)
    resumed.load_state_dict(weights)
    training.load_state_dict(state)
    for _ in fit(training, data, meta_optimizer, 14, 3):
        pass
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert (whole.failures.classes >= 0).any()


def test_it_is_not_fused():
    for every in (0, 2):
        learner = mtl(toy.mlp((256,)), hard_every=every)
        assert (
            fusion_blocker(TrainState.create(learner, toy.adam(), toy.CPU, 0))
            == "it changes state outside the outer step"
        )


# ------------------------------------------------------------------------------------------------------- others


def test_it_tells_how_far_scales_and_shifts_are():
    assert mtl().diagnostics() == {"scale": 0, "shift": 0}
    assert min(mtl(moved=True).diagnostics().values()) > 0.1


@pytest.mark.parametrize(("bad", "says"), [
    ({"pretrain_share": 1.5}, "pretrain_share must be from 0 to 1, got 1.5"),
    ({"pretrain_share": -0.1}, "pretrain_share must be from 0 to 1, got -0.1"),
    ({"inner_steps": -1}, "inner_steps must be a whole number"), ({"eval_steps": 0.5}, "eval_steps must be"),
    ({"hard_every": -1}, "hard_every must be a whole number of at least 0"),
    ({"hard_memory": 0}, "hard_memory must be a whole number of at least 1, got 0"),
    ({"scale_lr": 0.0}, "scale_lr must be above 0"), ({"theta_lr": -1.0}, "theta_lr must be above 0"),
    ({"base_classes": 0}, "algo.base_classes must be"),
])  # fmt: skip
def test_refuses_what_makes_no_sense(bad, says):
    with pytest.raises(ValueError, match=says):
        mtl(**bad)


def test_refuses_a_network_without_weights():
    class Flat(nn.Module):
        def __init__(self, outputs):
            super().__init__()
            self.head = nn.Linear(256, 1) if outputs else nn.Identity()

    with pytest.raises(ValueError, match="convolutions or linear layers"):
        mtl(lambda outputs: Flat(outputs))


def test_learns_glyphs(glyphs):
    """Untrained it fails; over tasks it learns what pre-training alone has not given it."""
    data = glyphs(queries=10, train_queries=5, batch_size=32)
    given = {"base_classes": 60, "inner_lr": 0.5, "inner_steps": 3, "eval_steps": 3}
    given |= {"scale_lr": 0.03, "theta_lr": 0.01, "pretrain_share": 1 / 3}
    learner = mtl(toy.conv4(filters=16, features="flatten", norm="running"), **given).float()
    meta_optimizer = toy.adam(lr=1e-2)
    found = [evaluate(learner, data, "test", 40, 0).estimate().mean]
    for step in fit(TrainState.create(learner, meta_optimizer, toy.CPU, 0), data, meta_optimizer, 240, 2):
        if step.iteration in (80, 240):
            found.append(evaluate(learner, data, "test", 40, 0).estimate().mean)
    assert found[0] < 0.3 and found[1] < 0.5 < found[2] - 0.02, found
