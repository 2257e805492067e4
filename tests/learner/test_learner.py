"""What all learners share: batching over tasks, defaults, running statistics, the small helpers."""

from functools import partial

import pytest
import torch
import toy
from torch import nn

from metarun.algos.maml import MAML
from metarun.layers.norm import inductive
from metarun.learner.learner import Learner, Stage, count_tasks, slice_tasks
from metarun.tasks import Examples, Task


class Mean(Learner):
    """Predicts the mean of the support targets plus a learned offset."""

    def __init__(self):
        super().__init__(nn.functional.mse_loss)
        self.offset = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.register_hyperparameter("scale", 2)

    def adapt(self, support, random_inputs=()):
        mean = support.y.mean(0) + self.offset
        return lambda x: mean.expand(len(x), -1)


def test_mapping_tasks_takes_any_structure_and_vmap_is_the_loop(draw):
    batch, learner = draw("mlp"), Mean()

    def f(task, weights):
        return {"x": task.support.x @ weights, "pair": (task.query.y.sum(), task.query.x[0])}

    weights = torch.randn(4, 1, 2, dtype=torch.float64)
    vectorized = learner.map_tasks(f, batch, weights)
    learner.vectorized = False
    sequential = learner.map_tasks(f, batch, weights)
    torch.testing.assert_close(vectorized, sequential, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(learner.map_tasks_sequentially(f, batch, weights), sequential, rtol=0, atol=0)
    assert vectorized["x"].shape == (4, 10, 2)
    assert vectorized["pair"][0].shape == (4,)


def test_random_numbers_inside_a_task_are_refused(draw):
    with pytest.raises(RuntimeError, match="randomness"):
        Mean().map_tasks(lambda task: torch.rand(1), draw("mlp"))


def test_the_default_outer_problem_is_the_query_loss(draw):
    batch, learner = draw("mlp"), Mean()
    expected = ((batch.query.y - batch.support.y.mean(1, keepdim=True)) ** 2).mean((1, 2))
    torch.testing.assert_close(learner(batch).detach(), expected)


def test_one_that_adapts_at_once_has_one_predictor(draw, one):
    task = one(draw("mlp"))
    assert len(list(Mean().trajectory(task.support, 7))) == 1


def test_defaults():
    learner = Mean()
    assert learner.stages == (Stage("episodes", 1.0, ("all",)),)
    (group,) = learner.parameter_groups()
    assert group["name"] == "meta" and group["params"] == [learner.offset]
    assert learner.random_inputs(None, 1, torch.Generator()) == ()
    assert learner.diagnostics() == {}
    assert learner.request_classes(4, torch.Generator()) is None


def test_what_only_some_learners_can_says_who_cannot():
    with pytest.raises(NotImplementedError, match="^Mean does not compare pairs$"):
        Mean().score_pairs(torch.zeros(2, 2, 1))
    with pytest.raises(NotImplementedError, match="^Mean does not predict sequences$"):
        Mean().predict_sequence(None)


def test_the_stream_of_the_evaluation_is_its_own_or_else_the_data_sets():
    class Data(toy.Blobs):
        evaluation_stream = "pairs"

    class Own(Mean):
        evaluation_stream = "sequences"

    assert [Mean.evaluation_stream_for(data) for data in (Data, Data(), toy.Blobs)] == ["pairs", "pairs", "episodes"]
    assert Own.evaluation_stream_for(Data) == "sequences"


def test_hyperparameters_are_0_dim_buffers_that_are_not_saved():
    learner = Mean()
    assert learner.scale.shape == () and float(learner.scale) == 2
    assert "scale" in dict(learner.named_buffers())
    assert set(learner.state_dict()) == {"offset", "progress"}
    assert learner.hyperparameters == ("scale",) and Learner.hyperparameters == ()


def test_counting_and_slicing(draw):
    batch = draw("conv4")
    assert count_tasks(batch) == 3
    part = slice_tasks(batch, 1, 3)
    assert isinstance(part, Task) and isinstance(part.query, Examples)
    assert torch.equal(part.query.y, batch.query.y[1:]) and torch.equal(part.support.x, batch.support.x[1:])


def running(make, backbones, **kwargs):
    backbone = partial(backbones["conv4"], norm="running")
    return make(MAML, "conv4", backbone=backbone, inner_steps=1, eval_steps=1, first_order=False, **kwargs)


def buffers(learner):
    return {name: b.clone() for name, b in learner.named_buffers() if "running" in name}


def test_running_statistics_are_those_of_the_whole_batch_in_any_micro_batches(make, draw, backbones):
    batch = draw("conv4")
    whole, sliced = running(make, backbones), running(make, backbones)
    start = buffers(whole)
    whole(batch)
    torch.testing.assert_close(buffers(whole), start, rtol=0, atol=0)  # nothing moves before the step is over
    whole.after_step()
    for bounds in ((0, 1), (1, 3)):
        sliced(slice_tasks(batch, *bounds))
    sliced.after_step()
    torch.testing.assert_close(buffers(whole), buffers(sliced), rtol=1e-12, atol=1e-14)
    assert not any(torch.equal(start[name], b) for name, b in buffers(whole).items())
    whole.after_step()  # each step's statistics count once
    torch.testing.assert_close(buffers(whole), buffers(sliced), rtol=1e-12, atol=1e-14)


def test_evaluation_leaves_running_statistics_alone(make, draw, backbones):
    learner = running(make, backbones).eval()
    before = buffers(learner)
    with torch.no_grad():
        assert learner(draw("conv4")).shape == (3,)
    learner.after_step()
    torch.testing.assert_close(buffers(learner), before, rtol=0, atol=0)


def test_transductive_and_inductive_predictions_differ_and_only_the_latter_stand_alone(make, draw, one):
    learner = make(MAML, "conv4", inner_steps=2, eval_steps=2, first_order=False).eval()
    task = one(draw("conv4"))
    predict = learner.adapt(task.support)
    transductive = predict(task.query.x)
    with inductive(learner):
        batched = predict(task.query.x)
        single = torch.cat([predict(x[None]) for x in task.query.x])
    torch.testing.assert_close(single, batched, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(transductive, batched, rtol=1e-3)
    assert not torch.allclose(predict(task.query.x[:3]), transductive[:3], rtol=1e-3)


def test_support_mode_is_the_inductive_reading_of_batch_mode(make, draw, one, backbones):
    kwargs = {"inner_steps": 2, "eval_steps": 2, "first_order": False}
    task = one(draw("conv4"))
    support = make(MAML, "conv4", backbone=partial(backbones["conv4"], norm="support"), **kwargs)
    batch = make(MAML, "conv4", **kwargs)
    with inductive(batch):
        expected = batch.adapt(task.support)(task.query.x)
    torch.testing.assert_close(support.adapt(task.support)(task.query.x), expected, rtol=1e-12, atol=1e-14)


def test_converting_the_precision_changes_floating_point_leaves_only(draw):
    batch = Mean().to_dtype(draw("conv4"))
    assert batch.support.x.dtype == torch.float32 and batch.support.y.dtype == torch.int64
