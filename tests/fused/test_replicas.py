"""Replicas in one program are what they are alone: weights, losses, optimizer states, scores, failures."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
import toy
from replica_toys import (
    CELLS,
    SGD,
    Pictures,
    alone,
    assert_same_learner,
    begin,
    expected_start,
    image_maml,
    image_replicas,
    image_training,
    images_alone,
    meta_optimizer,
    mtnet,
    protonet,
    together,
)
from small import components_of

from metarun.experiment.choices import names
from metarun.fused.evaluate import evaluate_replicas
from metarun.fused.loop import fit_together
from metarun.fused.replicas import Replicas, fusion_blocker, stacked
from metarun.training.loop import DivergenceError, TrainState, fit


@pytest.mark.slow
@pytest.mark.parametrize("algo", names("algo"))
def test_every_algorithm_is_the_same_fused_or_says_why_not(algo):
    components = [copy.deepcopy(components_of(algo, seed)) for seed in (0, 1)]
    trainings = [TrainState.create(p.learner, p.meta_optimizer, toy.CPU, s) for s, p in enumerate(components)]
    expected = copy.deepcopy(trainings)
    if fusion_blocker(trainings[0]) is not None:
        with pytest.raises(ValueError, match="cannot be fused"):
            Replicas(trainings, [p.data for p in components], components[0].meta_optimizer)
        return
    replicas = Replicas(trainings, [p.data for p in components], components[0].meta_optimizer)
    for _ in fit_together(replicas, 3, 3):
        pass
    for training, own, p in zip(trainings, expected, components, strict=True):
        for _ in fit(own, p.data, p.meta_optimizer, 3, 3):
            pass
        assert_same_learner(training.learner, own.learner, 1e-8)
        assert not all(torch.equal(a, b) for a, b in zip(own.learner.parameters(), expected_start(algo), strict=False))


@pytest.mark.slow
def test_each_ones_outer_rate_is_its_own():
    rates = [1e-3, 1e-2, 5e-3]
    hows = [meta_optimizer(lr=rate, max_grad_norm=1.0) for rate in rates]
    runs = [begin(mtnet(0), how, 0) for how in hows]
    replicas = Replicas(runs, [toy.sinusoid()] * 3, hows[0])
    for _ in fit_together(replicas, 20, 3):
        pass
    for training, how in zip(runs, hows, strict=True):
        own = begin(mtnet(0), how, 0)
        for _ in fit(own, toy.sinusoid(), how, 20, 3):
            pass
        assert_same_learner(training.learner, own.learner, 1e-10)
        assert training.optimizers["meta"].param_groups[0]["lr"] == pytest.approx(
            own.optimizers["meta"].param_groups[0]["lr"]
        )


@pytest.mark.slow
def test_a_stopped_training_goes_on_alone_or_together():
    """Optimizer states are handed out and taken in again; generators stand where they would."""
    how = meta_optimizer(max_grad_norm=1.0)
    first = together(how)
    for steps in fit_together(first, 20, 3):
        if steps.iteration == 8:
            break
    first.scatter_optimizer_state()
    saved = [(copy.deepcopy(t.learner.state_dict()), copy.deepcopy(t.state_dict())) for t in first.trainings]

    def loaded(r: int) -> TrainState:
        training = begin(mtnet(5, CELLS[r][1]), how, 99)
        training.learner.load_state_dict(saved[r][0])
        training.load_state_dict(saved[r][1])
        return training

    again = Replicas([loaded(r) for r in range(3)], [toy.sinusoid()] * 3, how)
    assert again.iteration == 8
    for _ in fit_together(again, 20, 3):
        pass
    single = loaded(1)
    for _ in fit(single, toy.sinusoid(), how, 20, 3):
        pass
    for r, (unbroken, _) in enumerate(alone(how)):
        assert_same_learner(again.trainings[r].learner, unbroken.learner)
        if r == 1:
            assert_same_learner(single.learner, unbroken.learner)


def test_one_that_diverges_stops_and_hurts_no_other():
    how = meta_optimizer()
    cells = [(0, 0.05), (1, 1e200), (2, 0.05)]
    replicas = Replicas([begin(mtnet(*c), how, c[0]) for c in cells], [toy.sinusoid()] * 3, how)
    seen = list(fit_together(replicas, 12, 3))
    assert len(seen) == 12 and replicas.active == {0, 2}
    (failed_at,) = [s.iteration for s in seen if s.failed]
    assert list(seen[failed_at - 1].failed) == [1]
    lone = begin(mtnet(*cells[1]), how, 1)
    with pytest.raises(DivergenceError) as diverged:
        list(fit(lone, toy.sinusoid(), how, 12, 3))
    assert diverged.value.iteration == failed_at
    stopped = replicas.trainings[1]
    assert stopped.iteration == lone.iteration == failed_at - 1
    assert_same_learner(stopped.learner, lone.learner)  # the weights from before it
    for r in (0, 2):
        own = begin(mtnet(*cells[r]), how, cells[r][0])
        list(fit(own, toy.sinusoid(), how, 12, 3))
        assert_same_learner(replicas.trainings[r].learner, own.learner)


@pytest.mark.parametrize(
    ("learner", "how", "reason"),
    [
        (lambda: toy.Recurrent(), meta_optimizer, "task after task"),
        (lambda: toy.maml(), lambda: meta_optimizer(torch.optim.Adafactor), "Adafactor does not step each entry"),
    ],
)
def test_who_cannot_be_fused_says_why(learner, how, reason):
    assert reason in fusion_blocker(begin(learner(), how(), 0))


def test_replicas_stand_at_one_iteration():
    how = meta_optimizer()
    ahead = begin(toy.maml(), how, 0)
    list(fit(ahead, toy.sinusoid(), how, 1, 2))
    with pytest.raises(ValueError, match="the same iteration"):
        Replicas([begin(toy.maml(), how, 0), ahead], [toy.sinusoid()] * 2, how)


def test_running_statistics_did_move():
    """What the test above compares is no initial value, and each replica has its own."""
    states = [t.learner.state_dict() for t, _ in images_alone("protonet, running statistics")]
    first, second, _ = (state["net.blocks.norm1.running_mean"] for state in states)
    assert first.abs().min() > 1e-3 and (first - second).abs().min() > 1e-4


@pytest.mark.parametrize("size", [None, 2, 1])
def test_one_that_diverges_keeps_its_statistics_and_hurts_no_other_in_its_micro_batch(size):
    how, cells = meta_optimizer(SGD, 0.05, max_grad_norm=0.2), [(0, 0.4), (1, 1e300), (2, 0.4)]
    make = image_maml("running")
    replicas = image_replicas(make, how, size, cells)
    seen = list(fit_together(replicas, 6, 3))
    assert replicas.active == {0, 2} and [list(s.failed) for s in seen if s.failed] == [[1]]
    assert list(evaluate_replicas(replicas, "val", 2, 1)) == [0, 2]
    for r, training in enumerate(replicas.trainings):
        own = image_training(make, *cells[r], how)
        if r == 1:
            with pytest.raises(DivergenceError) as diverged:
                list(fit(own, Pictures(), how, 6, 3))
            assert seen[diverged.value.iteration - 1].failed
        else:
            list(fit(own, Pictures(), how, 6, 3))
        assert_same_learner(training.learner, own.learner, 1e-12)


def test_a_micro_batch_whose_replicas_are_dead_is_left_out(monkeypatch):
    replicas = image_replicas(image_maml(), meta_optimizer(SGD, 0.05), 1, [(0, 0.4), (1, 1e300), (2, 0.4)])
    program, calls = replicas.program(), []
    monkeypatch.setattr(replicas, "program", lambda: lambda *a: calls.append(1) or program(*a))
    failed_at = [s.iteration for s in fit_together(replicas, 6, 3) if s.failed]
    assert len(calls) == 3 * failed_at[0] + 2 * (6 - failed_at[0])


def test_slots_lie_in_memory_as_the_weights_of_their_own_do():
    """Strides of a size of one too: by them torch chooses the layout of a convolution's output."""
    weights = [torch.randn(8, 1, 3, 3).to(memory_format=torch.channels_last) for _ in range(2)]
    for weight, slot in zip(weights, stacked(weights), strict=True):
        assert torch.equal(slot, weight) and slot.stride() == weight.stride() == (9, 1, 3, 1)
    x = torch.randn(2, 1, 6, 6)
    channels_last = [F.conv2d(x, w).is_contiguous(memory_format=torch.channels_last) for w in stacked(weights)]
    assert channels_last == [True, True]


@pytest.mark.parametrize("size", [None, 2, 1])
def test_what_is_saved_is_a_replicas_own_and_goes_on_in_any_memory_format(size):
    """A fused Adam reads weights and its own moments in the order of memory, whatever their strides say."""
    how, make = meta_optimizer(), protonet("none")
    unbroken = image_training(make, 1, 0.4, how)
    list(fit(unbroken, Pictures(), how, 8, 3))
    first = image_replicas(make, how, size)
    for steps in fit_together(first, 8, 3):
        if steps.iteration == 4:
            break
    first.scatter_optimizer_state()
    for training in first.trainings:
        weight = training.learner.net.blocks.conv2.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        for state in training.optimizers["meta"].state.values():
            assert state["exp_avg"].untyped_storage().nbytes() == state["exp_avg"].nbytes  # not all replicas'
    again = Replicas(copy.deepcopy(first.trainings), [Pictures()] * 3, how, size)
    list(fit_together(again, 8, 3))
    assert_same_learner(again.trainings[1].learner, unbroken.learner)
    list(fit(first.trainings[1], Pictures(), how, 8, 3))
    assert_same_learner(first.trainings[1].learner, unbroken.learner)


def test_a_micro_batch_holds_a_replica_at_least():
    with pytest.raises(ValueError, match="at least one at a time; got 0"):
        image_replicas(image_maml(), meta_optimizer(), 0)
