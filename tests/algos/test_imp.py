"""IMP against the official code's procedure in loops, prototypical networks, and likely mistakes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy

from metarun.algos.imp import IMP
from metarun.algos.protonet import ProtoNet
from metarun.tasks import Examples, Task


def learner(alpha=0.1, sigma=0.5, ways=3, cls=IMP, seed=0):
    torch.manual_seed(seed)
    kwargs = {"alpha": alpha, "sigma": sigma} if cls is IMP else {}
    return cls(toy.mlp((4,), hidden=[5]), ways, F.cross_entropy, **kwargs).double()


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def embedded_support(shots, ways=3, seed=0, scale=1.0):
    """Embedded examples in random order."""
    y = torch.arange(ways).repeat(shots)
    return Examples(scale * random(ways * shots, 5, seed=seed), y[torch.randperm(len(y))])


def threshold_by_hand(means, sigma, alpha):
    rho = np.mean([np.var(means[:, dim], ddof=1) for dim in range(means.shape[1])])
    return -2 * sigma * math.log(alpha) + means.shape[1] * sigma * math.log(1 + rho / sigma)


def mixture_by_hand(ours, support, farthest_first=True):
    """Weights of the examples in each kept cluster, and the clusters' classes, by the official code's loop in numpy."""
    z, y = support.x.detach().numpy(), support.y.numpy()
    sigma, alpha = float(ours.log_sigma.detach().exp()), float(ours.alpha)
    centres = [z[y == k].mean(0) for k in range(ours.ways)]
    owners = list(range(ours.ways))
    threshold = threshold_by_hand(np.stack(centres), sigma, alpha)

    def to_nearest(i):
        return min(((z[i] - c) ** 2).sum() for c, k in zip(centres, owners, strict=True) if k == y[i])

    waiting = list(range(len(z)))
    while waiting:
        i = max(waiting, key=to_nearest) if farthest_first else waiting[0]
        waiting.remove(i)
        if to_nearest(i) > threshold:
            centres.append(z[i])
            owners.append(y[i])
    weights = np.zeros((len(z), len(centres)))
    for i in range(len(z)):
        of_class = [c for c, k in enumerate(owners) if k == y[i]]
        p = np.array([math.exp(-((z[i] - centres[c]) ** 2).sum() / (2 * sigma)) for c in of_class])
        weights[i, of_class] = p / p.sum()
    kept = weights.sum(0) > 1e-3
    return torch.tensor(weights[:, kept]), torch.tensor(owners)[torch.tensor(kept)]


def scores_by_hand(ours, support, queries, farthest_first=True):
    """Class scores with the weights as constants, so that their gradient by autograd is the official code's."""
    weights, owners = mixture_by_hand(ours, support, farthest_first)
    clusters = (weights.T @ support.x) / weights.sum(0)[:, None]
    sigma, rows = ours.log_sigma.exp(), []
    for q in queries:
        distances = ((q - clusters) ** 2).sum(1)
        rows.append(torch.stack([-distances[owners == k].min() / (2 * sigma) for k in range(ours.ways)]))
    return torch.stack(rows)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shots", [2, 5])
def test_scores_are_those_of_the_official_procedure(shots, seed):
    ours, support, queries = learner(alpha=0.05), embedded_support(shots, seed=seed), random(6, 5, seed=seed + 50)
    torch.testing.assert_close(ours.head(support)(queries), scores_by_hand(ours, support, queries), rtol=1e-9, atol=0)


def test_these_tasks_have_classes_with_one_with_several_and_with_as_many_clusters_as_examples():
    counts = set()
    for seed in range(6):
        _, owners = mixture_by_hand(learner(alpha=0.05), embedded_support(5, seed=seed))
        counts |= set(owners.bincount().tolist())
        _, owner = learner(alpha=0.05).mixture(embedded_support(5, seed=seed))
        assert owner.sum(0).tolist() == owners.bincount().tolist()
    assert min(counts) < 3 and max(counts) >= 5


@pytest.mark.parametrize(("scale", "more"), [(0.999, False), (1.001, True)])
def test_an_example_opens_a_cluster_just_above_the_threshold(scale, more):
    """Three classes far apart; two examples of class 0 lie on either side of its mean, close to the threshold."""
    ours = learner(alpha=0.2, sigma=0.5)
    means = torch.tensor([[0.0, 0, 0, 0, 0], [9.0, 1, 0, 0, 0], [0.0, 8, 2, 0, 1]], dtype=torch.float64)
    step = torch.zeros(3, 5, dtype=torch.float64)
    step[0, 3] = math.sqrt(threshold_by_hand(means.numpy(), 0.5, float(ours.alpha)) * scale)
    support = Examples(torch.cat([means - step, means + step]), torch.arange(3).repeat(2))
    _, owner = ours.mixture(support)
    assert owner.sum(0).tolist() == [1 + more, 1, 1]  # both open one, which leaves the mean's cluster without weight


@pytest.mark.parametrize("alpha", [1.0, 0.1, 1e-5])
def test_with_one_shot_it_equals_prototypical_networks_over_two_sigma(alpha):
    ours, theirs = learner(alpha, sigma=3.0), learner(cls=ProtoNet)
    support, queries = embedded_support(1), random(6, 5, seed=1)
    expected = theirs.head(support)(queries) / (2 * ours.log_sigma.exp())
    torch.testing.assert_close(ours.head(support)(queries), expected, rtol=1e-9, atol=1e-12)


def test_with_one_cluster_per_class_it_equals_prototypical_networks_over_two_sigma():
    ours, theirs = learner(), learner(cls=ProtoNet)
    support, queries = embedded_support(5, scale=0.05), random(6, 5, seed=1)
    expected = theirs.head(support)(queries) / (2 * ours.log_sigma.exp())
    torch.testing.assert_close(ours.head(support)(queries), expected, rtol=1e-9, atol=1e-12)


def two_modes():
    """Support set and queries of class 0 at both ends of one axis and class 1 at those of another: equal means."""
    modes = 4 * torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)
    x = modes.repeat(6, 1) + 0.1 * random(24, 2)
    y = torch.tensor([0, 1]).repeat(12)
    return Examples(x[:16], y[:16]), Examples(x[16:], y[16:])


def test_a_class_of_two_modes_becomes_two_clusters_and_prototypes_cannot_separate_it():
    ours, (support, query) = learner(ways=2), two_modes()
    clusters, owner = ours.mixture(support)
    assert owner.sum(0).tolist() == [2, 2]  # the first cluster, between the modes, has no examples left
    torch.testing.assert_close(clusters[owner[:, 0] == 1][:, 0].sort().values.round(), torch.tensor([-4.0, 4]).double())
    assert (ours.head(support)(query.x).argmax(1) == query.y).all()
    means = learner(ways=2, cls=ProtoNet).head(support)(query.x).log_softmax(1)
    assert F.cross_entropy(means, query.y) > 0.3
    assert (means.argmax(1) == query.y).double().mean() < 0.8


def test_the_order_of_the_support_set_does_not_matter():
    for seed in range(6):
        ours, support, queries = learner(alpha=0.05), embedded_support(5, seed=seed), random(6, 5, seed=1)
        expected = ours.head(support)(queries)
        for order_seed in range(3):
            order = torch.randperm(15, generator=torch.Generator().manual_seed(order_seed))
            shuffled = Examples(support.x[order], support.y[order])
            torch.testing.assert_close(ours.head(shuffled)(queries), expected, rtol=1e-9, atol=1e-12)


def test_the_official_order_gives_the_same_scores_where_modes_are_well_separated():
    ours, (support, query) = learner(ways=2), two_modes()
    expected = scores_by_hand(ours, support, query.x, farthest_first=False)
    torch.testing.assert_close(ours.head(support)(query.x), expected, rtol=1e-9, atol=1e-9)


def gradients(scores, y, *leaves):
    return torch.autograd.grad(F.cross_entropy(scores, y), leaves)


def test_no_gradient_flows_through_assignments():
    """Soft assignments split examples between clusters; the gradient is that with the weights as constants."""
    ours, queries, y = learner(alpha=0.05), random(6, 5, seed=1), torch.arange(3).repeat(2)
    support = embedded_support(5, seed=2)
    weights, _ = mixture_by_hand(ours, support)
    assert ((weights > 0.1) & (weights < 0.9)).any()
    z = support.x.requires_grad_()
    leaves = (z, ours.log_sigma)
    expected = gradients(scores_by_hand(ours, support, queries), y, *leaves)
    for a, b in zip(gradients(ours.head(support)(queries), y, *leaves), expected, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


def batch(shots=2):
    y = torch.arange(3).repeat(shots)
    return Task(
        Examples(3 * random(2, 3 * shots, 4), torch.stack([y, y.flip(0)])),
        Examples(3 * random(2, 4, 4, seed=1), torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])),
    )


def test_vmap_equals_a_loop(loss_and_gradient):
    ours = learner(alpha=0.9, sigma=0.05)
    assert torch.vmap(lambda x, y: ours.mixture(Examples(ours.net(x), y))[1])(*batch(4).support).sum() > 2 * 3 + 2
    vectorized = loss_and_gradient(ours, batch(4))
    ours.vectorized = False
    torch.testing.assert_close(loss_and_gradient(ours, batch(4)), vectorized, rtol=1e-9, atol=1e-11)


def test_the_gradient_is_right_and_reaches_sigma(loss_and_gradient, slopes_agree):
    """With one shot; with more, finite differences include the assignments' derivative, which IMP omits."""
    ours = learner()
    slopes_agree(ours, batch(1))
    assert ours.log_sigma.grad.abs() > 0


def test_training_and_prediction_use_the_same_scores(one):
    ours, task = learner(alpha=0.9, sigma=0.05), one(batch(4))
    loss = F.cross_entropy(ours.adapt(task.support)(task.query.x), task.query.y)
    torch.testing.assert_close(ours.meta_loss(task), loss)


def test_ways_may_change_after_construction():
    ours = learner(ways=5)
    ours.ways = 2
    assert ours.head(embedded_support(2, ways=2))(random(4, 5)).shape == (4, 2)


def test_single_precision_agrees_with_double():
    """A distance of an example to itself that rounding leaves above 0 opens no cluster."""
    for seed in range(6):
        support, queries = embedded_support(5, seed=seed), random(6, 5, seed=1)
        single = learner(alpha=1.0, sigma=1e-2).float().head(Examples((100 + support.x).float(), support.y))
        double = learner(alpha=1.0, sigma=1e-2).head(Examples(100 + support.x, support.y))
        torch.testing.assert_close(single((100 + queries).float()).double(), double(100 + queries), rtol=1e-2, atol=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0.0}, "algo.alpha must be above 0; got 0.0"),
        ({"alpha": 1.5}, "algo.alpha must be at most 1, .*; got 1.5"),
        ({"sigma": 0.0}, "algo.sigma must be above 0; got 0.0"),
    ],
)
def test_rejects_invalid_values(change, message):
    with pytest.raises(ValueError, match=message):
        learner(**change)
