"""R2-D2 against numpy's ridge regression and finite differences; lambda must have an effect."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy
from clusters import one, tasks
from torch import nn

from metarun.algos.r2d2 import R2D2, ridge, with_ones
from metarun.learner.embedding import one_hot
from metarun.tasks import Examples

ARGS = {"regularization": 0.25, "learn_lambda": False, "scale": 2.0}


def learner(hidden=6, ways=3, seed=0, backbone=None, **changes):
    torch.manual_seed(seed)
    backbone = backbone or toy.mlp((4,), hidden=[8, hidden])
    return R2D2(backbone, ways, F.cross_entropy, **(ARGS | changes)).double()


def by_hand(z, y, ways, weight):
    """W that minimises mean squared error + weight |W|^2: least squares with the penalty as additional rows."""
    n, d = z.shape
    X, Y = np.hstack([z, np.ones((n, 1))]), np.eye(ways)[y]
    rows = np.vstack([X / np.sqrt(n), np.sqrt(weight) * np.eye(d + 1)])
    return np.linalg.lstsq(rows, np.vstack([Y / np.sqrt(n), np.zeros((d + 1, ways))]), rcond=None)[0]


@pytest.mark.parametrize("learn_lambda", [False, True])
@pytest.mark.parametrize("shots", [1, 2, 7])  # 3, 6 and 21 examples: fewer, and more, than 7 features
def test_class_scores_are_those_of_numpys_ridge_regression(shots, learn_lambda):
    ours, task = learner(learn_lambda=learn_lambda), one(tasks(shots))
    support, query = (ours.net(examples.x).detach().numpy() for examples in task)
    W = by_hand(support, task.support.y.numpy(), 3, 0.25)
    expected = 2.0 * np.hstack([query, np.ones((len(query), 1))]) @ W
    rtol = 1e-6 if learn_lambda else 1e-9  # the logarithm of lambda is computed in float32
    np.testing.assert_allclose(ours.adapt(task.support)(task.query.x).detach().numpy(), expected, rtol=rtol)
    loss = F.cross_entropy(torch.tensor(expected), task.query.y)
    torch.testing.assert_close(ours.meta_loss(task).detach(), loss, rtol=rtol, atol=0)


@pytest.mark.parametrize("n", [3, 5, 9])
def test_both_systems_have_the_same_solution(n):
    generator = torch.Generator().manual_seed(n)
    X, Y = torch.randn(n, 5, generator=generator).double(), torch.randn(n, 2, generator=generator).double()
    weight = torch.tensor(0.7, dtype=torch.float64)
    expected = np.linalg.solve((X.T @ X).numpy() + 0.7 * np.eye(5), (X.T @ Y).numpy())
    np.testing.assert_allclose(ridge(X, Y, weight).numpy(), expected, rtol=1e-10)


def test_the_smaller_system_is_solved(monkeypatch):
    sizes = []
    solve_ex = torch.linalg.solve_ex
    monkeypatch.setattr(torch.linalg, "solve_ex", lambda A, B: sizes.append(len(A)) or solve_ex(A, B))
    for n in (3, 20):
        ridge(torch.ones(n, 8), torch.ones(n, 2), torch.tensor(1.0))
    assert sizes == [3, 8]


@pytest.mark.parametrize("shots", [1, 7])
def test_meta_gradient_agrees_with_finite_differences(shots, slopes_agree):
    slopes_agree(learner(learn_lambda=True), tasks(shots))


def test_the_gradient_flows_through_the_solution():
    """With the support set detached, f gets a gradient from the query set alone, which differs."""
    ours, task = learner(), one(tasks())
    ours.meta_loss(task).backward()
    gradient = nn.utils.parameters_to_vector(p.grad for p in ours.net.parameters())
    ours.zero_grad()
    z, queries = ours.net(task.support.x).detach(), ours.net(task.query.x)
    ours.query_loss(ours.head(Examples(z, task.support.y))(queries), task.query.y).backward()
    detached = nn.utils.parameters_to_vector(p.grad for p in ours.net.parameters())
    assert (gradient - detached).norm() > 0.05 * gradient.norm()


def test_lambda_matters_and_stays_positive_when_learned():
    task = one(tasks())
    weak, strong = (learner(regularization=r).adapt(task.support)(task.query.x) for r in (0.01, 100.0))
    assert strong.std() < 0.1 * weak.std()
    ours = learner(learn_lambda=True)
    assert ours.lambda_.item() == pytest.approx(0.25)
    optimizer = torch.optim.SGD(ours.parameters(), lr=1e3)
    (-ours.meta_loss(task)).backward()
    optimizer.step()
    assert ours.lambda_ > 0
    assert learner(learn_lambda=True).hyperparameters == ()
    assert learner().hyperparameters == ("regularization",)
    assert "regularization" not in learner().state_dict()


def test_targets_are_indicators_of_the_classes():
    """A large lambda leaves W = X^T Y / (n lambda), sums over the examples of each class."""
    ours, task = learner(regularization=1e9, scale=1e9), one(tasks())
    X, n = with_ones(ours.net(task.support.x)), len(task.support.x)
    Y = one_hot(task.support.y, 3, torch.float64)
    expected = with_ones(ours.net(task.query.x)) @ X.T @ Y / n
    torch.testing.assert_close(ours.adapt(task.support)(task.query.x), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("learn_lambda", [False, True])
def test_vmap_equals_a_loop(learn_lambda, loss_and_gradient):
    ours, batch = learner(learn_lambda=learn_lambda), tasks()
    vectorized = loss_and_gradient(ours, batch)
    ours.vectorized = False
    torch.testing.assert_close(loss_and_gradient(ours, batch), vectorized, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_it_compiles_as_a_full_graph(loss_and_gradient):
    ours, batch = learner(learn_lambda=True), tasks()
    eager = loss_and_gradient(ours, batch)
    torch._dynamo.reset()
    compiled = loss_and_gradient(ours, batch, torch.compile(ours, backend="aot_eager", fullgraph=True))
    torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-12)


def test_ways_and_shots_at_test_may_differ_from_those_in_training():
    ours, task = learner(ways=3), one(tasks(shots=4, ways=5))
    ours.ways = 5
    assert ours.adapt(task.support)(task.query.x).shape == (15, 5)


def test_nan_embeddings_give_a_nan_loss():
    """The loop stops at a NaN with a message, where an error from within the solver would be obscure."""
    ours, task = learner(), one(tasks())
    assert ours.meta_loss(task._replace(support=task.support._replace(x=task.support.x * torch.nan))).isnan()


@pytest.mark.parametrize(("name", "value"), [("regularization", 0.0), ("scale", -1.0)])
def test_rejects_numbers_that_are_not_positive(name, value):
    with pytest.raises(ValueError, match=f"algo.{name} must be above 0; got {value}"):
        learner(**{name: value})


def test_it_learns():
    torch.manual_seed(0)
    ours = R2D2(toy.mlp((2,)), 3, F.cross_entropy, **(ARGS | {"regularization": 1.0}))
    before, after = toy.score(ours, toy.Blobs(), 200, toy.adam(lr=1e-2), meta_batch_size=4, tasks=100)
    assert after > max(0.9, before + 0.1)
