"""The loop: one outer step is the mean gradient; random inputs, objectives, groups and stages need nothing else."""

from __future__ import annotations

import math

import pytest
import torch
import toy

from metarun.learner.learner import Learner, Stage
from metarun.tasks import TaskOfClasses
from metarun.training.distributed import SingleProcess
from metarun.training.loop import DivergenceError, TrainState, fit, stage_at
from metarun.training.meta_optimizer import MetaOptimizer

CPU = torch.device("cpu")


def train(
    learner: Learner,
    data=None,
    meta_optimizer: MetaOptimizer | None = None,
    iterations=20,
    meta_batch_size=6,
    **options,
) -> TrainState:
    meta_optimizer = meta_optimizer or toy.adam()
    state = TrainState.create(learner, meta_optimizer, CPU, seed=0)
    for _ in fit(state, data or toy.sinusoid(), meta_optimizer, iterations, meta_batch_size, **options):
        pass
    return state


def weights(learner: Learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


def test_one_step_moves_by_the_mean_gradient_over_tasks():
    learner = toy.seeded(toy.maml)
    meta_optimizer = toy.sgd(lr=0.1)
    before = weights(learner)
    state = TrainState.create(learner, meta_optimizer, CPU, seed=0)
    step = next(fit(state, toy.sinusoid(), meta_optimizer, 10, 5))
    after = weights(learner)

    torch.nn.utils.vector_to_parameters(before, learner.parameters())
    learner.zero_grad()
    for t in range(5):  # task by task, an independent sum
        task = torch.utils._pytree.tree_map(lambda leaf, t=t: leaf[t], step.batch)
        (learner.meta_loss(task) / 5).backward()
    gradient = torch.cat([p.grad.flatten() for p in learner.parameters()])
    torch.testing.assert_close(after, before - 0.1 * gradient, rtol=0, atol=1e-12)


def test_reported_loss_is_the_mean_over_tasks():
    learner = toy.seeded(toy.maml)
    state = TrainState.create(learner, meta_optimizer := toy.sgd(lr=1e-9), CPU, seed=0)
    step = next(fit(state, toy.sinusoid(), meta_optimizer, 10, 5))
    assert step.loss == pytest.approx(learner(step.batch).mean().item(), rel=1e-6)


@pytest.mark.parametrize("make", [toy.maml, toy.Noisy])
def test_micro_batches_and_the_loop_give_what_the_whole_batch_gives(make):
    whole = train(toy.seeded(make)).learner
    for size in (1, 4):
        split = train(toy.seeded(make), task_micro_batch=size).learner
        torch.testing.assert_close(weights(split), weights(whole), rtol=0, atol=1e-12)
    looped = toy.seeded(make)
    looped.vectorized = False
    torch.testing.assert_close(weights(train(looped).learner), weights(whole), rtol=0, atol=1e-12)
    assert (weights(toy.seeded(make)) - weights(whole)).abs().max() > 1e-3  # and they all moved


def test_a_compiled_learner_with_random_inputs_gives_the_same_numbers():
    whole = train(toy.seeded(toy.Noisy)).learner
    learner = toy.seeded(toy.Noisy)
    compiled = train(learner, compiled=True).learner
    torch.testing.assert_close(weights(compiled), weights(whole), rtol=0, atol=1e-12)


def test_random_inputs_differ_between_tasks_and_steps_and_repeat_with_the_seed():
    def masks() -> list[torch.Tensor]:
        learner, meta_optimizer = toy.seeded(toy.Noisy), toy.adam()
        return [
            s.random_inputs["mask"]
            for s in fit(TrainState.create(learner, meta_optimizer, CPU, 0), toy.sinusoid(), meta_optimizer, 3, 4)
        ]

    first, again = masks(), masks()
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(torch.cat(first).unique()) == 3 * 4


def test_sampling_inside_the_mapped_function_is_refused():
    class Careless(toy.Noisy):
        def adapt(self, support, random_inputs=()):
            return super().adapt(support, {"mask": torch.rand(1)})

    with pytest.raises(RuntimeError, match="random"):
        train(Careless(), iterations=1)


def test_two_objectives_take_turns_each_with_its_own_group_rate_and_optimizer():
    learner = toy.Adversaries()
    meta_optimizer = toy.sgd(lr=0.01)
    state = TrainState.create(learner, meta_optimizer, CPU, seed=0)
    step = next(fit(state, toy.sinusoid(), meta_optimizer, 10, 4))
    # Both losses have a gradient in both groups. first: a^2 b at (2, 3), rate 0.5 of its own; second: -a b, a moved.
    assert learner.first.item() == pytest.approx(2 - 0.5 * 2 * 2 * 3)
    assert learner.second.item() == pytest.approx(3 - 0.01 * 4)
    assert list(step.losses) == ["first", "second"]
    assert step.losses["first"] == pytest.approx(12)


class Segments(toy.Adversaries):
    """Both objectives step one group."""

    def parameter_groups(self):
        return [{"name": "all", "params": list(self.parameters())}]


def test_a_group_called_all_is_stepped_by_each_objective_in_turn():
    learner, meta_optimizer = Segments(), toy.sgd(lr=0.01)
    step = next(fit(TrainState.create(learner, meta_optimizer, CPU, seed=0), toy.sinusoid(), meta_optimizer, 10, 4))
    a, b = 2 - 0.01 * 2 * 2 * 3, 3 - 0.01 * 4  # the first objective's step, of both
    assert step.losses["second"] == pytest.approx(-a * b)  # taken where the first led to
    assert learner.first.item() == pytest.approx(a + 0.01 * b)
    assert learner.second.item() == pytest.approx(b + 0.01 * a)


def test_progress_runs_from_zero_to_one_and_survives_a_resume():
    data, meta_optimizer = toy.sinusoid(), toy.adam()
    whole = train(toy.seeded(toy.Scheduled), iterations=20).learner

    learner = toy.seeded(toy.Scheduled)
    first = TrainState.create(learner, meta_optimizer, CPU, seed=0)
    for step in fit(first, data, meta_optimizer, 20, 6):
        assert learner.progress.item() == pytest.approx((step.iteration - 1) / 20)
        if step.iteration == 7:
            break
    saved_weights, saved = {k: v.clone() for k, v in learner.state_dict().items()}, first.state_dict()

    resumed_learner = toy.Scheduled().double()
    second = TrainState.create(resumed_learner, meta_optimizer, CPU, seed=123)
    resumed_learner.load_state_dict(saved_weights)
    second.load_state_dict(saved)
    for _ in fit(second, data, meta_optimizer, 20, 6):
        pass
    assert torch.equal(weights(resumed_learner), weights(whole))
    assert not torch.equal(weights(train(toy.seeded(toy.Scheduled), iterations=40).learner), weights(whole))


def test_a_stage_of_batches_precedes_one_of_episodes():
    learner = toy.Pretrained()
    learner.vectorized = False  # so that meta_loss is called, and counted, once for each task
    train(learner, toy.Blobs(), iterations=20, meta_batch_size=1)
    assert learner.seen == ["batches"] * 5 + ["episodes"] * 15


def test_stages_take_their_shares():
    stages = (Stage("batches", 0.5), Stage("pairs", 0.25), Stage("episodes", 0.25))
    streams = [stage_at(stages, i, 10).stream for i in range(10)]
    assert streams == ["batches"] * 5 + ["pairs"] * 3 + ["episodes"] * 2


def test_a_surrogate_loss_steps_along_its_own_direction():
    learner = toy.seeded(toy.Surrogate, 0.1)
    meta_optimizer = toy.sgd(lr=1.0)
    before = weights(learner)
    state = TrainState.create(learner, meta_optimizer, CPU, seed=0)
    step = next(fit(state, toy.sinusoid(), meta_optimizer, 10, 3))
    x, y = step.batch.support
    slope, bias = before
    residual = slope * x + bias - y  # [T, n, 1]
    gradient = torch.stack([(2 * residual * x).mean((1, 2)), (2 * residual).mean((1, 2))]).mean(1)
    torch.testing.assert_close(weights(learner), before - learner.inner_lr * gradient, rtol=1e-12, atol=0)
    query = step.batch.query
    assert step.loss == pytest.approx((slope * query.x + bias - query.y).square().mean().item(), rel=1e-6)


@pytest.mark.slow
def test_an_lstm_learner_trains_task_after_task():
    # the tasks are lines of a constant height: only the support set tells which
    data = toy.sinusoid(frequency=(0.0, 0.0), phase=(-1.5708, -1.5708))
    torch.manual_seed(0)
    learner, meta_optimizer = toy.Recurrent(), toy.adam(lr=1e-2)
    losses = [s.loss for s in fit(TrainState.create(learner, meta_optimizer, CPU, 0), data, meta_optimizer, 150, 8)]
    assert sum(losses[:10]) / 10 > 2  # untrained, it does not know the height
    assert sum(losses[-10:]) / 10 < 0.2


def test_a_learner_without_stages_is_not_trained():
    class Untrained(toy.Noisy):
        stages = ()

    learner = Untrained()
    before = weights(learner)
    assert train(learner, iterations=5).iteration == 0
    assert torch.equal(weights(learner), before)


def test_nan_stops_the_run_before_the_weights_are_touched():
    learner = toy.seeded(toy.maml, inner_lr=1e200)
    before = weights(learner)
    with pytest.raises(DivergenceError, match="iteration 1") as caught:
        train(learner)
    assert caught.value.iteration == 1
    assert torch.equal(weights(learner), before)


def test_tasks_of_two_seeds_differ_and_of_one_seed_repeat():
    def first_batch(seed: int) -> torch.Tensor:
        learner, meta_optimizer = toy.maml(), toy.adam()
        return next(
            fit(TrainState.create(learner, meta_optimizer, CPU, seed), toy.sinusoid(), meta_optimizer, 1, 4)
        ).batch.support.y

    assert torch.equal(first_batch(0), first_batch(0))
    assert not torch.equal(first_batch(0), first_batch(1))


def test_running_statistics_are_the_same_whole_and_in_micro_batches():
    def statistics(task_micro_batch: int | None) -> torch.Tensor:
        learner = toy.seeded(toy.maml, toy.mlp(norm="running"))
        # few steps of SGD: batch norm divides by small variances, and rounding grows fast
        train(learner, meta_optimizer=toy.sgd(lr=0.01), iterations=5, task_micro_batch=task_micro_batch)
        return torch.cat([b.flatten() for n, b in learner.named_buffers() if "running" in n])

    assert (statistics(None)[:16]).abs().max() > 1e-3
    torch.testing.assert_close(statistics(None), statistics(4), rtol=0, atol=1e-12)
    assert math.isfinite(statistics(None).sum().item())


class OfClasses(toy.Blobs):
    """Blobs that can be asked for tasks of given classes."""

    streams = ("episodes", "episodes_of_classes")

    def sample(self, part, stream, tasks, generator):
        task = super().sample(part, "episodes", tasks, generator)
        return TaskOfClasses(*task, torch.full((tasks, self.WAYS), -1))

    def sample_classes(self, part, classes, generator):
        assert part == "train"
        return TaskOfClasses(*super().sample(part, "episodes", len(classes), generator), classes)


class Requesting(toy.Pretrained):
    """Requests classes in every third step."""

    stages = (Stage("episodes_of_classes"),)

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, int]] = []

    def request_classes(self, tasks, generator):
        self.asked.append((tasks, self.ways))
        if len(self.asked) % 3:
            return None
        return torch.randint(toy.Blobs.CLASSES, (tasks, toy.Blobs.WAYS), generator=generator)


def test_a_learner_that_requests_classes_gets_tasks_of_them():
    learner, meta_optimizer = toy.seeded(Requesting), toy.adam()
    steps = list(fit(TrainState.create(learner, meta_optimizer, CPU, 0), OfClasses(), meta_optimizer, 7, 4))
    requested = [bool((step.batch.classes >= 0).all()) for step in steps]
    assert requested == [False, False, True, False, False, True, False]
    assert learner.asked == [(4, toy.Blobs.WAYS)] * 7  # before every meta-batch, when it knows the ways
    # It samples from the generator of its tasks: after the same tasks it requests the same classes.
    again = list(
        fit(TrainState.create(toy.seeded(Requesting), meta_optimizer, CPU, 0), OfClasses(), meta_optimizer, 7, 4)
    )
    assert all(torch.equal(a.batch.classes, b.batch.classes) for a, b in zip(steps, again, strict=True))
    other = list(
        fit(TrainState.create(toy.seeded(Requesting), meta_optimizer, CPU, 1), OfClasses(), meta_optimizer, 7, 4)
    )
    assert not torch.equal(steps[2].batch.classes, other[2].batch.classes)


def test_by_default_no_class_is_requested_and_no_random_number_used():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert toy.maml().request_classes(4, generator) is None
    assert torch.equal(generator.get_state(), before)


def test_data_that_cannot_sample_given_classes_say_so():
    with pytest.raises(NotImplementedError, match="Sinusoid draws no tasks of given classes"):
        toy.sinusoid().sample_classes("train", torch.zeros(2, 5), torch.Generator())


class Losing(SingleProcess):
    """Other processes that are gone at the `at`-th call."""

    def __init__(self, at: int) -> None:
        self.left = at

    def all_reduce_sum(self, value):
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("connection closed by peer")
        return value


def test_a_step_that_fails_leaves_the_generators_as_they_were():
    data, meta_optimizer = toy.sinusoid(), toy.adam()
    state = TrainState.create(toy.seeded(toy.Noisy), meta_optimizer, CPU, 0)
    with pytest.raises(RuntimeError, match="closed by peer"):
        list(fit(state, data, meta_optimizer, 7, 4, world=Losing(4)))
    assert state.iteration == 3 and state.consistent
    list(fit(state, data, meta_optimizer, 7, 4))  # goes on as if nothing had happened
    unbroken = TrainState.create(toy.seeded(toy.Noisy), meta_optimizer, CPU, 0)
    list(fit(unbroken, data, meta_optimizer, 7, 4))
    assert torch.equal(weights(state.learner), weights(unbroken.learner))


def test_a_step_that_fails_half_done_is_not_whole():
    """Its first objective has stepped, the second has not: no checkpoint of this would be of any iteration."""
    state = TrainState.create(toy.Adversaries(), meta_optimizer := toy.sgd(lr=0.01), CPU, seed=0)
    with pytest.raises(RuntimeError):
        list(fit(state, toy.sinusoid(), meta_optimizer, 10, 4, world=Losing(4)))
    assert state.iteration == 1 and not state.consistent
