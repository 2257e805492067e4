"""Evaluation: the right tasks, steps and metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy
from referees import roc_auc_score

from metarun.algos.baselines.nearest_centroid import NearestCentroid
from metarun.data.pairs import SyntheticPairs
from metarun.evaluation.evaluate import Evaluation, evaluate, evaluate_batch, has_headline_metric
from metarun.learner.learner import slice_tasks


def test_values_are_those_of_single_tasks_step_by_step():
    torch.manual_seed(0)
    learner, data = toy.maml(eval_steps=2), toy.sinusoid()
    scores = evaluate(learner, data, "test", 25, steps=4)
    assert scores.values["mse"].shape == (25, 5)
    batch = data.eval_block("test", "episodes", 1)  # tasks 20 to 24 are the second block's first
    for t in range(5):
        task = torch.utils._pytree.tree_map(lambda leaf, t=t: leaf[t], batch)
        for step, predictor in enumerate(learner.trajectory(task.support, 4)):
            by_hand = (predictor(task.query.x) - task.query.y).square().mean().item()
            assert scores.values["mse"][20 + t, step] == pytest.approx(by_hand, rel=1e-4)
    assert scores.estimate().mean == pytest.approx(scores.values["mse"][:, 2].mean())  # the headline: eval_steps
    assert [row["step"] for row in scores.curve()] == [0, 1, 2, 3, 4]


def test_each_group_of_tasks_has_its_estimate_at_the_headlines_step():
    values = np.array([[9.0, 1.0], [9.0, 10.0], [9.0, 3.0], [9.0, 30.0]])
    evaluation = Evaluation("mse", 5, {"mse": values}, groups=("a", "b", "a", "b"))
    assert {name: (row.mean, row.tasks) for name, row in evaluation.by_group().items()} == {
        "mse/a": (2.0, 2),
        "mse/b": (20.0, 2),
    }
    assert Evaluation("mse", 5, {"mse": values}).by_group() == {}


def test_without_the_curve_the_last_step_is_scored_alone():
    torch.manual_seed(0)
    learner, data = toy.maml(eval_steps=2), toy.sinusoid()
    whole, last = (evaluate(learner, data, "val", 22, 2, curve=c) for c in (True, False))
    np.testing.assert_array_equal(last.values["mse"], whole.values["mse"][:, 2:])
    assert last.estimate() == whole.estimate()


def test_tasks_are_the_same_for_every_learner_and_count():
    data = toy.sinusoid()
    a = evaluate(toy.maml(), data, "test", 30, 1)
    b = evaluate(toy.Scheduled(), data, "test", 30, 1)
    assert a.episodes == b.episodes != evaluate(toy.maml(), data, "val", 30, 1).episodes
    learner = toy.maml()
    few, many = evaluate(learner, data, "test", 10, 1), evaluate(learner, data, "test", 45, 1)
    np.testing.assert_allclose(few.values["mse"], many.values["mse"][:10], rtol=1e-5)


@pytest.mark.parametrize("make", [toy.maml, toy.Noisy])
def test_micro_batches_change_nothing(make):
    torch.manual_seed(0)
    learner = make().double()
    whole = evaluate(learner, toy.sinusoid(), "test", 23, 2).values["mse"]
    split = evaluate(learner, toy.sinusoid(), "test", 23, 2, task_micro_batch=3).values["mse"]
    np.testing.assert_allclose(whole, split, rtol=1e-12)


def test_evaluating_leaves_the_learner_as_it_was():
    learner = toy.maml(toy.conv4(), outputs=5)
    learner.train()
    before = {k: v.clone() for k, v in learner.state_dict().items()}
    evaluate_batch(learner, "classification", _images(), (), 2)
    assert learner.training
    assert all(torch.equal(v, before[k]) for k, v in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())


def _images(tasks: int = 4, queries: int = 3):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(5)
    x = torch.rand(tasks, 5 * (1 + queries), 1, 28, 28, generator=generator)
    return toy.Task(toy.Examples(x[:, :5], y.repeat(tasks, 1)), toy.Examples(x[:, 5:], y.repeat(tasks, queries)))


def test_inductive_accuracy_looks_at_one_query_at_a_time():
    torch.manual_seed(0)
    learner = toy.maml(toy.conv4(filters=32), outputs=5, inner_lr=0.4).eval()
    batch = _images(tasks=6)
    together = evaluate_batch(learner, "classification", batch, (), 2)
    alone = []
    for q in range(15):
        one = batch._replace(query=toy.Examples(batch.query.x[:, q : q + 1], batch.query.y[:, q : q + 1]))
        alone.append(evaluate_batch(learner, "classification", one, (), 2)["accuracy_inductive"])
    np.testing.assert_allclose(np.mean(alone, 0), together["accuracy_inductive"])
    transductive = together["accuracy"][:, 2:]  # at eval_steps
    assert not np.allclose(transductive, together["accuracy_inductive"])


def test_without_batch_statistics_both_accuracies_are_one():
    learner = toy.maml(toy.conv4(norm="layer"), outputs=5, eval_steps=1)
    scores = evaluate_batch(learner, "classification", _images(), (), 1)
    np.testing.assert_array_equal(scores["accuracy"][:, 1:], scores["accuracy_inductive"])


def test_a_recurrent_learner_is_evaluated_task_after_task():
    torch.manual_seed(0)
    learner = toy.Recurrent()
    scores = evaluate(learner, toy.sinusoid(), "val", 22, 3)
    assert scores.values["mse"].shape == (22, 1)  # it adapts at once
    batch = slice_tasks(toy.sinusoid().eval_block("val", "episodes", 0), 3, 4)
    again = evaluate_batch(learner, "regression", batch, (), 3)["mse"]
    np.testing.assert_allclose(again[0], scores.values["mse"][3], rtol=1e-5)


def test_progress_is_reported_after_every_block():
    seen: list[int] = []
    evaluate(toy.maml(), toy.sinusoid(), "test", 45, 0, on_block=seen.append)
    assert seen == [20, 40, 45]


# ----------------------------------------------------------------------------------------------- verification


def pair_sets(pairs: int = 10, **changes):
    numbers = {"train_classes": 6, "val_classes": 6, "test_classes": 6, "drawings": 4, "pair_batch_size": 8}
    return SyntheticPairs(glyph_seed=0, partition="glyphs", pairs=pairs, device="cpu", **(numbers | changes))


def pixels() -> NearestCentroid:
    return NearestCentroid(backbone=None, ways=1, loss=F.cross_entropy)  # type: ignore[arg-type]


def test_verification_is_scored_set_by_set_with_the_scores_kept():
    data = pair_sets()
    scores = evaluate(pixels(), data, "test", 25, 3)
    assert scores.headline == "auc" and scores.metrics == ["auc"]
    assert {name: values.shape for name, values in scores.values.items()} == {
        "auc": (25, 1),
        "scores": (25, 10),
        "same": (25, 10),
    }
    x, y = (leaf[2] for leaf in data.eval_block("test", "pairs", 1))  # the second block's third
    by_hand = -(x[:, 0] - x[:, 1]).square().flatten(1).sum(1)
    np.testing.assert_allclose(scores.values["scores"][22], by_hand, rtol=1e-5)
    assert scores.values["auc"][22, 0] == pytest.approx(roc_auc_score(y, by_hand), rel=1e-5)
    assert scores.estimate().mean == pytest.approx(scores.values["auc"].mean())


def test_the_mean_area_over_sets_is_the_area_of_all_pairs():
    """Small sets estimate it without bias: the headline does not depend on how many pairs a task has."""
    small, large = (evaluate(pixels(), pair_sets(n), "test", 400, 0) for n in (4, 100))
    whole = roc_auc_score(large.values["same"].ravel(), large.values["scores"].ravel())
    assert abs(small.estimate().mean - whole) < 2 * small.estimate().ci95 < 0.1


def test_pairs_are_the_same_for_every_learner_and_micro_batch():
    data = pair_sets()
    whole, split = (evaluate(pixels(), data, "test", 25, 0, task_micro_batch=size) for size in (None, 3))
    np.testing.assert_array_equal(whole.values["scores"], split.values["scores"])
    assert whole.episodes == split.episodes != evaluate(pixels(), data, "val", 25, 0).episodes


def test_a_learner_that_compares_nothing_says_so():
    with pytest.raises(NotImplementedError, match="MAML does not compare pairs"):
        evaluate(toy.maml(toy.conv4()), pair_sets(), "test", 2, 0)


def test_which_batches_have_the_headline():
    pairs = pair_sets().eval_block("test", "pairs", 0)
    assert has_headline_metric("verification", pairs) and not has_headline_metric("classification", pairs)
    assert has_headline_metric("classification", _images()) and not has_headline_metric("verification", _images())
    assert not has_headline_metric("classification", _images().query)  # a batch of examples
