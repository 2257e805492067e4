"""The laws that every algorithm in conf/algo obeys: a new one is tested by existing.

Each runs on the first small data set that it takes; nothing here names an algorithm.
"""

from __future__ import annotations

import pytest
import torch
from hydra.utils import get_class
from small import components_of
from torch.utils import _pytree as pytree

from metarun.evaluation.evaluate import evaluate_batch
from metarun.evaluation.metrics import METRICS
from metarun.experiment.choices import describe, names
from metarun.learner.learner import Learner, slice_tasks
from metarun.sampling import stream_generator
from metarun.tasks import Batch

TASKS = 3


def make(algo: str, seed: int = 0) -> tuple[Learner, Batch, object, int]:
    """A fresh learner, a batch of tasks of its evaluation stream, its noise, and a number of steps."""
    components_of.cache_clear()  # learners change under test
    components = components_of(algo, seed)
    learner = components.learner
    stream = learner.evaluation_stream_for(components.data)
    stream = "episodes" if stream == "sequences" else stream  # what follows sequences can adapt to a support set too
    batch = components.data.sample("train", stream, TASKS, stream_generator("cpu", "contract"))
    steps = max(learner.eval_steps, learner.inner_steps)
    batch = learner.to_dtype(batch)
    random_inputs = learner.to_dtype(learner.random_inputs(batch, steps, stream_generator("cpu", "contract noise")))
    return learner, batch, random_inputs, steps


def training_batches(algo: str, learner: Learner) -> list[tuple[Batch, object]]:
    """Batches of all its stages' streams, for what it trains on may hold more than what it is tested on; with noise."""
    drawn = []
    for stage in learner.stages:
        batch = components_of(algo).data.sample("train", stage.stream, TASKS, stream_generator("cpu", "contract"))
        batch = learner.to_dtype(batch)
        random_inputs = learner.random_inputs(batch, learner.inner_steps, stream_generator("cpu", "contract noise"))
        drawn.append((batch, learner.to_dtype(random_inputs)))
    return drawn


def one(tree, t: int):
    return pytree.tree_map(lambda leaf: leaf[t], tree)


def predictions(learner: Learner, batch, random_inputs, steps: int) -> list[torch.Tensor]:
    made = [p(batch.query.x) for p in learner.trajectory(batch.support, steps, random_inputs)]
    return [leaf for leaf in pytree.tree_leaves(made) if leaf is not None]  # a distribution has several tensors


def learner_class(algo: str) -> type[Learner]:
    return get_class(describe("algo", algo)["_target_"])


every_algorithm = pytest.mark.parametrize("algo", names("algo"))


@every_algorithm
def test_adapting_leaves_the_meta_parameters_alone(algo):
    learner, batch, random_inputs, steps = make(algo)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    learner.adapt(one(batch, 0).support, one(random_inputs, 0))(one(batch, 0).query.x)
    evaluate_batch(learner, components_of(algo).data.kind, batch, random_inputs, steps)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


@every_algorithm
def test_a_batch_of_tasks_gives_what_single_tasks_give(algo):
    learner, batch, random_inputs, steps = make(algo)

    def query_predictions(task, random_inputs):
        return predictions(learner, task, random_inputs, steps)

    together = learner.map_tasks(query_predictions, batch, random_inputs)
    for t in range(TASKS):
        for whole, single in zip(together, query_predictions(one(batch, t), one(random_inputs, t)), strict=True):
            torch.testing.assert_close(whole[t], single, rtol=1e-9, atol=1e-10)


@every_algorithm
def test_the_same_task_and_noise_twice_give_the_same_answer(algo):
    learner, batch, random_inputs, steps = make(algo)
    first, again = (predictions(learner, one(batch, 0), one(random_inputs, 0), steps) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@every_algorithm
def test_the_order_of_the_support_set_is_irrelevant(algo):
    learner, batch, random_inputs, steps = make(algo)
    if learner.order_sensitive:
        pytest.skip("it looks at the support set in its order")
    task = one(batch, 0)
    order = torch.randperm(len(task.support.y), generator=torch.Generator().manual_seed(3))
    shuffled = task._replace(support=pytree.tree_map(lambda leaf: leaf[order], task.support))
    for a, b in zip(*(predictions(learner, t, one(random_inputs, 0), steps) for t in (task, shuffled)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@every_algorithm
def test_adapting_helps_on_the_support_set(algo):
    learner, batch, random_inputs, steps = make(algo)
    if not steps:
        pytest.skip("it takes no adaptation steps: there is no before and after to compare")
    before, *_, after = learner.trajectory(one(batch, 0).support, steps, one(random_inputs, 0))
    x, y = one(batch, 0).support
    kind = components_of(algo).data.kind
    name = "mse" if kind == "regression" else "nll"  # the task loss, also of samples
    found = [METRICS[kind](predict(x), y, learner.residual_variance)[name] for predict in (before, after)]
    assert found[1] < found[0]


@every_algorithm
def test_the_meta_gradient_reaches_every_meta_parameter(algo):
    learner, *_ = make(algo)
    if not learner.stages:
        assert all(p.grad is None for p in learner.parameters())
        return  # it is not trained
    learner.train()
    for batch, random_inputs in training_batches(algo, learner):
        learner(batch, random_inputs).sum().backward()
    untouched = [n for n, p in learner.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not untouched


@pytest.mark.parametrize(
    "algo", [algo for algo in names("algo") if learner_class(algo).evaluation_stream == "sequences"]
)
def test_what_is_told_later_changes_no_earlier_score(algo):
    learner, *_ = make(algo)
    batch = learner.to_dtype(
        components_of(algo).data.sample("train", "sequences", TASKS, stream_generator("cpu", "contract"))
    )
    scores = learner.predict_sequence(batch)
    n = batch.y.shape[1]
    for at in (0, n // 2, n - 2):
        later = batch._replace(y=batch.y.clone(), x=batch.x.clone())
        later.y[:, at:] = (later.y[:, at:] + 1) % learner.ways  # its own label too: it is told one step late
        later.x[:, at + 1 :] += 1
        other = learner.predict_sequence(later)
        torch.testing.assert_close(other[:, : at + 1], scores[:, : at + 1])
        assert (other[:, at + 1] - scores[:, at + 1]).abs().max() > 1e-6


@every_algorithm
def test_another_seed_starts_from_other_weights(algo):
    weights = [torch.cat([torch.zeros(1), *(p.flatten() for p in make(algo, s)[0].parameters())]) for s in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    if len(weights[0]) > 1:
        assert not torch.equal(weights[0], weights[2])


@every_algorithm
def test_numbers_are_buffers_that_are_not_saved(algo):
    learner, *_ = make(algo)
    if hasattr(learner, "inner_lr"):
        assert learner.inner_lr.shape == ()
        assert "inner_lr" not in learner.state_dict()


@every_algorithm
def test_slices_of_a_batch_are_batches(algo):
    learner, *_ = make(algo)
    for batch, random_inputs in training_batches(algo, learner):
        whole = learner(batch, random_inputs).detach()
        part = learner(slice_tasks(batch, 1, 3), slice_tasks(random_inputs, 1, 3)).detach()
        torch.testing.assert_close(part, whole[1:3], rtol=1e-9, atol=1e-10)
