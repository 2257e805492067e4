"""Replicas in one program are what they are alone: weights, losses, optimizer states, scores, failures."""

from __future__ import annotations

import copy
from functools import cache, partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy
from small import components_of
from torch import nn
from torch.utils import _pytree as pytree

from metarun.algos.maml_pp import MAMLPlusPlus
from metarun.algos.mtnet import MTNet
from metarun.algos.protonet import ProtoNet
from metarun.evaluation.evaluate import evaluate, evaluate_batch
from metarun.experiment.choices import names
from metarun.fused.loop import fit_together
from metarun.fused.replicas import Replicas, fusion_blocker, stacked
from metarun.tasks import Examples, Task
from metarun.training.loop import DivergenceError, TrainState, fit
from metarun.training.meta_optimizer import MetaOptimizer

ADAM = partial(torch.optim.Adam, fused=True)


def meta_optimizer(optimizer=ADAM, lr=1e-2, scheduler=None, max_grad_norm=None, max_grad_value=None):
    return MetaOptimizer(optimizer, lr, scheduler or toy.cosine(20), max_grad_norm, max_grad_value)


def mtnet(seed: int, inner_lr: float = 0.05, mask: str = "row") -> MTNet:
    torch.manual_seed(seed)
    return MTNet(toy.mlp(), 1, nn.functional.mse_loss, True, mask, 1.0, inner_lr, 2, 2).double()


def begin(learner, how: MetaOptimizer, seed: int) -> TrainState:
    return TrainState.create(learner, how, toy.CPU, seed)


CELLS = [(0, 0.05), (1, 0.05), (0, 0.2)]  # seed, alpha


def alone(how: MetaOptimizer, steps: int = 20, data=None, chunk=None) -> list[tuple[TrainState, list[float]]]:
    runs = []
    for seed, alpha in CELLS:
        training = begin(mtnet(seed, alpha), how, seed)
        losses = [step.loss for step in fit(training, data or toy.sinusoid(), how, steps, 3, chunk)]
        runs.append((training, losses))
    return runs


def together(how: MetaOptimizer) -> Replicas:
    return Replicas([begin(mtnet(*cell), how, cell[0]) for cell in CELLS], [toy.sinusoid()] * len(CELLS), how)


def assert_same_learner(a: nn.Module, b: nn.Module, tolerance: float = 1e-11) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance, msg=name)


OPTIMIZERS = {
    "adam": {},
    "adam, clipped": {"max_grad_norm": 0.05},
    "adam, entries clipped": {"max_grad_value": 0.01},
    "sgd": {"optimizer": partial(torch.optim.SGD, momentum=0.9, nesterov=True), "lr": 1e-3, "max_grad_norm": 1.0},
    "adamw": {"optimizer": partial(torch.optim.AdamW, weight_decay=0.1)},
    "rmsprop": {"optimizer": torch.optim.RMSprop, "lr": 1e-3},
}


@pytest.mark.parametrize(("kind", "chunk"), [*((kind, None) for kind in OPTIMIZERS), ("adam, clipped", 2)])
def test_twenty_outer_steps_are_those_of_separate_runs(kind, chunk):
    how = meta_optimizer(**OPTIMIZERS[kind])
    replicas = together(how)
    losses = [[s.loss(r) for r in range(3)] for s in fit_together(replicas, 20, 3, chunk)]
    for r, (training, expected) in enumerate(alone(how)):
        assert [row[r] for row in losses] == pytest.approx(expected, rel=1e-11)
        assert_same_learner(replicas.trainings[r].learner, training.learner)
        assert replicas.trainings[r].iteration == training.iteration == 20
    # and they are three different runs, which the clipping did touch
    assert len({round(row, 6) for row in losses[-1]}) == 3


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


def expected_start(algo: str) -> list[torch.Tensor]:
    return list(components_of(algo, 0).learner.parameters())


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


def test_each_may_draw_from_its_own_data():
    how, low, high = meta_optimizer(), toy.sinusoid(), toy.sinusoid(amplitude=(10.0, 20.0))
    order = [high, low, toy.sinusoid(phase=(0.0, 0.1)), high]
    runs = [begin(mtnet(seed), how, seed) for seed in range(4)]
    replicas = Replicas(runs, order, how)
    for _ in fit_together(replicas, 10, 3):
        pass
    scores = replicas.evaluate("test", 20, 2)
    for seed, (training, data) in enumerate(zip(runs, order, strict=True)):
        own = begin(mtnet(seed), how, seed)
        for _ in fit(own, data, how, 10, 3):
            pass
        assert_same_learner(training.learner, own.learner)
        expected = evaluate(own.learner, data, "test", 20, 2)
        assert scores[seed].episodes == expected.episodes
        np.testing.assert_allclose(scores[seed].values["mse"], expected.values["mse"], rtol=1e-9)


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


def test_when_all_have_diverged_it_ends():
    how = meta_optimizer()
    replicas = Replicas([begin(mtnet(s, 1e200), how, s) for s in (0, 1)], [toy.sinusoid()] * 2, how)
    assert len(list(fit_together(replicas, 50, 3))) < 50
    assert not replicas.active


def test_scores_are_those_of_each_alone():
    how, data = meta_optimizer(), toy.sinusoid()
    replicas = together(how)
    list(fit_together(replicas, 5, 3))
    scores = replicas.evaluate("val", 30, 4)
    assert list(scores) == [0, 1, 2]
    for training, ours in zip(replicas.trainings, scores.values(), strict=True):
        theirs = evaluate(training.learner, data, "val", 30, 4)
        np.testing.assert_allclose(ours.values["mse"], theirs.values["mse"], rtol=1e-9)
        assert (ours.episodes, ours.step) == (theirs.episodes, theirs.step)
    assert replicas.trainings[0].learner.training


def test_what_each_tells_of_itself():
    replicas = together(meta_optimizer())
    list(fit_together(replicas, 3, 3))
    told = replicas.diagnostics()
    for r, training in enumerate(replicas.trainings):
        for name, value in training.learner.diagnostics().items():
            torch.testing.assert_close(told[name][r], value.detach())


COMPILED = {
    "mtnet": lambda rate: MTNet(toy.mlp(hidden=[8]), 1, nn.functional.mse_loss, True, "row", 1.0, rate, 1, 1),
    "maml, running statistics": lambda rate: toy.maml(toy.mlp(hidden=[8], norm="running"), inner_lr=rate),
}


@pytest.mark.parametrize("kind", COMPILED)
def test_compiled_is_eager(kind):
    torch._dynamo.reset()
    how = meta_optimizer(torch.optim.SGD)

    def fresh() -> Replicas:
        runs = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            runs.append(begin(COMPILED[kind](0.05 + seed / 10).double(), how, seed))
        return Replicas(runs, [toy.sinusoid()] * 2, how)

    eager, compiled = fresh(), fresh()
    list(fit_together(eager, 4, 3))
    list(fit_together(compiled, 4, 3, compiled=True))
    for a, b in zip(eager.trainings, compiled.trainings, strict=True):
        assert_same_learner(a.learner, b.learner, 1e-9)


@pytest.mark.parametrize(
    ("learner", "how", "reason"),
    [
        (lambda: toy.Recurrent(), meta_optimizer(), "task after task"),
        (lambda: toy.maml(), meta_optimizer(partial(torch.optim.LBFGS, max_iter=1)), "LBFGS does not step each entry"),
    ],
)
def test_who_cannot_be_fused_says_why(learner, how, reason):
    assert reason in fusion_blocker(begin(learner(), how, 0))


def test_replicas_stand_at_one_iteration():
    how = meta_optimizer()
    ahead = begin(toy.maml(), how, 0)
    list(fit(ahead, toy.sinusoid(), how, 1, 2))
    with pytest.raises(ValueError, match="the same iteration"):
        Replicas([begin(toy.maml(), how, 0), ahead], [toy.sinusoid()] * 2, how)


# ------------------------------------------------------------------------------- convolutions, and chunks of replicas


class Pictures(toy.Blobs):
    """Images of noise with classes by turns."""

    def sample(self, part, stream, tasks, generator):
        x = torch.rand(tasks, 9, 1, 12, 12, generator=generator)
        y = torch.arange(9).remainder(3).expand(tasks, 9)
        return Task(Examples(x[:, :3], y[:, :3]), Examples(x[:, 3:], y[:, 3:]))


def conv(norm: str = "batch"):
    return toy.conv4((1, 12, 12), blocks=2, norm=norm)


def image_maml(norm: str = "batch", steps: int = 1, first_order: bool = False):
    return lambda rate: toy.maml(conv(norm), 3, inner_lr=rate, inner_steps=steps, first_order=first_order)


def protonet(norm: str):
    return lambda rate: ProtoNet(conv(norm), 3, nn.functional.cross_entropy, temperature=rate)


LEARNERS = {
    "maml": image_maml(),
    "maml, 3 steps": image_maml(steps=3),
    "maml, first order": image_maml(first_order=True),
    "maml, first order, 3 steps": image_maml(steps=3, first_order=True),
    "maml, the support set's statistics": image_maml("support"),
    "maml, running statistics": image_maml("running", steps=2),
    "maml++, running statistics of each step": lambda rate: MAMLPlusPlus(
        conv("running"), 3, nn.functional.cross_entropy, rate, 1e-3, 2, 2, 0.5, 0.0
    ),
    "protonet": protonet("batch"),
    "protonet, running statistics": protonet("running"),
}
IMAGE_CELLS = [(0, 0.4), (1, 0.4), (2, 0.05)]  # seed; inner rate, or temperature
SGD = partial(torch.optim.SGD, momentum=0.9)  # Adam would blow up the rounding of a bias before the norm


def image_training(make, seed: int, rate: float, how: MetaOptimizer) -> TrainState:
    torch.manual_seed(seed)
    return begin(make(rate).double(), how, seed)


def image_replicas(make, how: MetaOptimizer, size: int | None, cells=IMAGE_CELLS) -> Replicas:
    runs = [image_training(make, *cell, how) for cell in cells]
    return Replicas(runs, [Pictures()] * len(runs), how, size)


@cache
def images_alone(kind: str) -> list[tuple[TrainState, list[float]]]:
    how, runs = meta_optimizer(SGD, 0.05, max_grad_norm=0.2), []
    for cell in IMAGE_CELLS:
        training = image_training(LEARNERS[kind], *cell, how)
        runs.append((training, [step.loss for step in fit(training, Pictures(), how, 6, 3)]))
    return runs


CHUNKS = [(None, None), (None, 2), (2, 2), (1, None)]  # of replicas, of tasks


@pytest.mark.parametrize(("size", "chunk"), CHUNKS)
@pytest.mark.parametrize("kind", LEARNERS)
def test_networks_with_convolutions_are_those_of_separate_runs_in_chunks_or_whole(kind, size, chunk):
    replicas = image_replicas(LEARNERS[kind], meta_optimizer(SGD, 0.05, max_grad_norm=0.2), size)
    losses = [[s.loss(r) for r in range(3)] for s in fit_together(replicas, 6, 3, chunk)]
    for r, (training, expected) in enumerate(images_alone(kind)):
        assert [row[r] for row in losses] == pytest.approx(expected, rel=1e-12)
        assert_same_learner(replicas.trainings[r].learner, training.learner, 1e-12)
    assert len({round(row, 6) for row in losses[-1]}) == 3


def test_running_statistics_did_move():
    """What the test above compares is no initial value, and each replica has its own."""
    states = [t.learner.state_dict() for t, _ in images_alone("protonet, running statistics")]
    first, second, _ = (state["net.blocks.norm1.running_mean"] for state in states)
    assert first.abs().min() > 1e-3 and (first - second).abs().min() > 1e-4


@pytest.mark.parametrize(("size", "chunk"), CHUNKS)
@pytest.mark.parametrize("kind", ["maml", "protonet, running statistics"])
def test_scores_in_chunks_are_those_of_each_alone(kind, size, chunk):
    replicas = image_replicas(LEARNERS[kind], meta_optimizer(SGD, 0.05), size)
    *_, last = fit_together(replicas, 3, 3)
    ours = replicas.evaluate("val", 5, 2, chunk=chunk)
    own_tasks = replicas.score([0, 2], last.batch, last.random_inputs, 1, False, chunk)
    assert list(own_tasks) == [0, 2]
    for r, training in enumerate(replicas.trainings):
        theirs = evaluate(training.learner, Pictures(), "val", 5, 2)
        for name, values in theirs.values.items():
            np.testing.assert_allclose(ours[r].values[name], values, rtol=1e-9, err_msg=name)
        if r in own_tasks:
            batch = pytree.tree_map(lambda leaf, r=r: leaf[r], last.batch)
            training.learner.eval()
            expected = evaluate_batch(training.learner, "classification", batch, (), 1, curve=False)
            np.testing.assert_allclose(own_tasks[r]["nll"], expected["nll"], rtol=1e-9)


@pytest.mark.parametrize("size", [None, 2, 1])
def test_one_that_diverges_keeps_its_statistics_and_hurts_no_other_in_its_chunk(size):
    how, cells = meta_optimizer(SGD, 0.05, max_grad_norm=0.2), [(0, 0.4), (1, 1e300), (2, 0.4)]
    make = image_maml("running")
    replicas = image_replicas(make, how, size, cells)
    seen = list(fit_together(replicas, 6, 3))
    assert replicas.active == {0, 2} and [list(s.failed) for s in seen if s.failed] == [[1]]
    assert list(replicas.evaluate("val", 2, 1)) == [0, 2]
    for r, training in enumerate(replicas.trainings):
        own = image_training(make, *cells[r], how)
        if r == 1:
            with pytest.raises(DivergenceError) as diverged:
                list(fit(own, Pictures(), how, 6, 3))
            assert seen[diverged.value.iteration - 1].failed
        else:
            list(fit(own, Pictures(), how, 6, 3))
        assert_same_learner(training.learner, own.learner, 1e-12)


def test_a_chunk_whose_replicas_are_dead_is_left_out(monkeypatch):
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


def test_a_chunk_holds_a_replica_at_least():
    with pytest.raises(ValueError, match="at least one at a time; got 0"):
        image_replicas(image_maml(), meta_optimizer(), 0)
