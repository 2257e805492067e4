"""LR-D2 against scikit-learn's logistic regression, the paper's formula, and finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy
from clusters import one, tasks
from referees import LogisticRegression, OneVsRestClassifier

from metarun.algos.lr_d2 import LRD2, logistic
from metarun.algos.r2d2 import with_ones

ARGS = {"regularization": 0.25, "learn_lambda": False, "scale": 2.0, "newton_steps": 3}


def learner(ways=3, hidden=6, seed=0, **changes):
    torch.manual_seed(seed)
    return LRD2(toy.mlp((4,), hidden=[8, hidden]), ways, F.cross_entropy, **(ARGS | changes)).double()


@pytest.mark.parametrize("shots", [1, 2, 12])  # fewer, and more, examples than features
@pytest.mark.parametrize("ways", [2, 4])
def test_it_converges_to_scikit_learns(ways, shots):
    ours, task = learner(ways, newton_steps=25), one(tasks(shots, ways=ways))
    X, Z = (with_ones(ours.net(examples.x)).detach().numpy() for examples in task)
    theirs = LogisticRegression(C=1 / 0.25, fit_intercept=False, tol=1e-12, max_iter=10_000)
    theirs = OneVsRestClassifier(theirs).fit(X, task.support.y.numpy())
    eta = np.stack([e.decision_function(Z) for e in theirs.estimators_], 1)
    if ways == 2:  # scikit-learn has a single regression then, for the second class
        eta = np.hstack([-eta, eta])
    np.testing.assert_allclose(ours.adapt(task.support)(task.query.x).detach().numpy(), 2.0 * eta, atol=1e-5)


def by_the_paper(X, y, weight, steps):
    """Equation 8 literally, for one class."""
    w = np.zeros(X.shape[1])
    for _ in range(steps):
        eta = X @ w
        mu = 1 / (1 + np.exp(-eta))
        s = mu * (1 - mu)
        w = X.T @ np.linalg.solve(X @ X.T + weight * np.diag(1 / s), eta + (y - mu) / s)
    return w


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("shots", [1, 6])
def test_every_step_is_the_papers(shots, steps):
    ours, task = learner(newton_steps=steps), one(tasks(shots))
    X, Z = (with_ones(ours.net(examples.x)).detach().numpy() for examples in task)
    Y = np.eye(3)[task.support.y.numpy()]
    W = np.stack([by_the_paper(X, y, 0.25, steps) for y in Y.T], 1)
    np.testing.assert_allclose(ours.adapt(task.support)(task.query.x).detach().numpy(), 2.0 * Z @ W, rtol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [4, 40])
def test_saturated_examples_do_no_harm(n, dtype):
    """mu rounds to 0 or 1 and S to 0, by which the paper's formula divides."""
    generator = torch.Generator().manual_seed(n)
    X = torch.randn(n, 8, generator=generator).to(dtype)
    X[0] *= 300
    Y = (X[:, :1] > 0).to(dtype)
    X.requires_grad_()
    W = logistic(X, Y, torch.tensor(0.1, dtype=dtype), 20)
    mu = (X @ W).sigmoid()
    assert (mu * (1 - mu)).min() < 1e-30
    assert W.isfinite().all()
    assert (mu.round() == Y).all()
    torch.testing.assert_close(0.1 * W, X.T @ (Y - mu), rtol=0.01, atol=1e-4)  # the gradient at the minimum is 0
    (gradient,) = torch.autograd.grad((X @ W).sum(), X)
    assert gradient.isfinite().all()


def test_lambda_matters():
    task = one(tasks())
    weak, strong = (learner(regularization=r).adapt(task.support)(task.query.x) for r in (0.01, 100.0))
    assert strong.std() < 0.1 * weak.std()


@pytest.mark.parametrize("shots", [1, 6])
def test_meta_gradient_agrees_with_finite_differences(shots, slopes_agree):
    slopes_agree(learner(learn_lambda=True), tasks(shots))


def test_vmap_equals_a_loop(loss_and_gradient):
    ours, batch = learner(learn_lambda=True), tasks()
    vectorized = loss_and_gradient(ours, batch)
    ours.vectorized = False
    torch.testing.assert_close(loss_and_gradient(ours, batch), vectorized, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("steps", [0, 1.5, True])
def test_rejects_invalid_steps(steps):
    with pytest.raises(ValueError, match=f"algo.newton_steps must be an integer of at least 1; got {steps}"):
        learner(newton_steps=steps)


def test_it_learns():
    torch.manual_seed(0)
    ours = LRD2(toy.mlp((2,)), 3, F.cross_entropy, **ARGS)
    before, after = toy.score(ours, toy.Blobs(), 150, toy.adam(lr=1e-2), meta_batch_size=4, tasks=60)
    assert after > max(0.85, before + 0.1)
