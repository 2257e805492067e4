"""Nearest centroid agrees with scikit-learn's."""

import torch
import torch.nn.functional as F
from referees import NearestCentroid as Referee

from metarun.algos.baselines.nearest_centroid import NearestCentroid
from metarun.tasks import Examples


def learner(ways=5):
    return NearestCentroid(backbone=None, ways=ways, loss=F.cross_entropy)


def tasks(seed=0):
    """3 tasks, 5-way 4-shot, 30 queries, images of 1x8x8; labels in any order."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 50, 1, 8, 8, generator=generator)
    orders = torch.stack([torch.randperm(20, generator=generator) for _ in range(3)])
    y = torch.arange(20).remainder(5)[orders]
    return Examples(x[:, :20], y), x[:, 20:]


def test_agrees_with_scikit_learn_under_vmap():
    support, queries = tasks()
    logits = learner().map_tasks(lambda s, q: learner().adapt(s)(q), support, queries)
    assert logits.shape == (3, 30, 5)
    for x, y, query, ours in zip(*support, queries, logits, strict=True):
        referee = Referee().fit(x.flatten(1).numpy(), y.numpy())
        assert ours.argmax(1).tolist() == referee.predict(query.flatten(1).numpy()).tolist()


def test_logits_are_minus_squared_distances_to_class_means():
    support, queries = tasks()
    x, y = (leaf[0] for leaf in support)
    means = torch.stack([x[y == k].mean(0) for k in range(5)]).flatten(1)
    expected = -(torch.cdist(queries[0].flatten(1).double(), means.double()) ** 2)
    logits = learner().adapt(Examples(x, y))(queries[0])
    torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_order_of_the_support_set_is_irrelevant():
    support, queries = tasks()
    x, y = (leaf[0] for leaf in support)
    flipped = learner().adapt(Examples(x.flip(0), y.flip(0)))(queries[0])
    torch.testing.assert_close(flipped, learner().adapt(Examples(x, y))(queries[0]), rtol=1e-5, atol=1e-5)


def test_learns_nothing():
    assert list(learner().parameters()) == []
    assert NearestCentroid.stages == ()
    assert NearestCentroid.task_types == ("classification", "verification")


def test_pairs_score_minus_their_squared_distance():
    """Whatever the order of the two, and under vmap."""
    x = torch.rand(3, 7, 2, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores = learner().map_tasks(learner().score_pairs, x)
    assert scores.shape == (3, 7)
    distances = [[torch.dist(*pair).item() ** 2 for pair in pairs] for pairs in x]
    torch.testing.assert_close(scores, -torch.tensor(distances, dtype=torch.float64))
    torch.testing.assert_close(scores, learner().map_tasks(learner().score_pairs, x.flip(2)))
