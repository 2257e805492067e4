"""MetaOptNet against scikit-learn's support vector machine, numpy's ridge regression, and finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy
from clusters import one, tasks
from referees import LinearSVC
from torch import nn

from metarun.algos.metaoptnet import MetaOptNet
from metarun.tasks import Examples

ARGS = {
    "variant": "svm",
    "C": 0.125,
    "kernel_ridge": 1.0,
    "regularization": 0.5,
    "label_smoothing": 0.0,
    "scale": 2.0,
}


def learner(ways=3, seed=0, **changes):
    torch.manual_seed(seed)
    return MetaOptNet(toy.mlp((4,), hidden=[8, 6]), ways, F.cross_entropy, **(ARGS | changes)).double()


def bare(ways=3, **changes):
    """A learner without a network: the inputs are the embeddings."""
    return MetaOptNet(lambda outputs: nn.Identity(), ways, F.cross_entropy, **(ARGS | changes)).double()


@pytest.mark.parametrize("C", [0.0625, 1.0])
@pytest.mark.parametrize(("ways", "shots"), [(5, 5), (3, 20)])
def test_predictions_are_those_of_scikit_learns_machine(ways, shots, C):
    agree, count = 0, 0
    for t in range(4):
        task = one(tasks(shots, queries=50, ways=ways), t)
        theirs = LinearSVC(multi_class="crammer_singer", fit_intercept=False, C=C, tol=1e-10, max_iter=1_000_000)
        theirs.fit(task.support.x.numpy(), task.support.y.numpy())
        scores = bare(ways, C=C, kernel_ridge=0.0, scale=1.0).adapt(task.support)(task.query.x).detach().numpy()
        agree += (scores.argmax(1) == theirs.predict(task.query.x.numpy())).sum()
        count += len(scores)
        expected = theirs.decision_function(task.query.x.numpy())
        np.testing.assert_allclose(scores, expected, atol=2e-3 * np.abs(expected).max())
    assert agree >= 0.99 * count


@pytest.mark.parametrize("shots", [1, 6])
def test_the_ridge_variant_equals_numpys(shots):
    ours, task = learner(variant="ridge"), one(tasks(shots))
    X, Z = (ours.net(examples.x).detach().numpy() for examples in task)
    a = np.linalg.solve(X @ X.T + 0.5 * np.eye(len(X)), np.eye(3)[task.support.y.numpy()])
    np.testing.assert_allclose(ours.adapt(task.support)(task.query.x).detach().numpy(), 2.0 * Z @ X.T @ a, rtol=1e-9)


def test_class_weights_are_sums_of_examples_within_the_bounds():
    ours, task = learner(), one(tasks())
    x = ours.net(task.support.x)
    a = ours.dual(Examples(x, task.support.y))
    torch.testing.assert_close(ours.adapt(task.support)(task.query.x), 2.0 * ours.net(task.query.x) @ x.T @ a)
    bounds = 0.125 * F.one_hot(task.support.y, 3)
    assert (a - bounds).max() <= 1e-9
    assert a.sum(1).abs().max() < 1e-9


def test_the_identity_of_the_official_code_changes_the_solution():
    task = one(tasks())
    a = [learner(kernel_ridge=r, C=4.0).adapt(task.support)(task.query.x) for r in (0.0, 1.0)]
    assert (a[0] - a[1]).abs().max() > 0.01


@pytest.mark.parametrize("variant", ["svm", "ridge"])
def test_meta_gradient_agrees_with_finite_differences(variant, slopes_agree):
    """With larger steps and wider tolerances than elsewhere: the optimum has kinks where a bound becomes active."""
    slopes_agree(learner(variant=variant), tasks(), size=1e-5, rtol=1e-3)


@pytest.mark.parametrize("variant", ["svm", "ridge"])
def test_the_gradient_flows_through_the_solution(variant):
    ours, task = learner(variant=variant), one(tasks())
    gradients = []
    for detach in (False, True):
        ours.zero_grad()
        z, queries = ours.net(task.support.x), ours.net(task.query.x)
        a = ours.dual(Examples(z, task.support.y))
        w = z.T @ (a.detach() if detach else a)
        ours.query_loss(ours.scale * queries @ w, task.query.y).backward()
        gradients.append(nn.utils.parameters_to_vector(p.grad for p in ours.net.parameters()))
    ours.zero_grad()
    ours.meta_loss(task).backward()
    gradient = nn.utils.parameters_to_vector(p.grad for p in ours.net.parameters())
    torch.testing.assert_close(gradient, gradients[0], rtol=1e-8, atol=1e-12)
    assert (gradient - gradients[1]).norm() > 0.02 * gradient.norm()


def test_label_smoothing_is_that_of_the_official_code():
    """It gives epsilon / (ways - 1) to each wrong class, where torch's own gives epsilon / ways to all classes."""
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]], dtype=torch.float64)
    y = torch.tensor([0, 2])
    log_p = logits.log_softmax(1)
    expected = -(0.75 * log_p[[0, 1], y] + 0.125 * (log_p.sum(1) - log_p[[0, 1], y])).mean()
    torch.testing.assert_close(learner(label_smoothing=0.25).query_loss(logits, y), expected)
    torch.testing.assert_close(learner().query_loss(logits, y), F.cross_entropy(logits, y))


@pytest.mark.parametrize("variant", ["svm", "ridge"])
def test_vmap_equals_a_loop(variant, loss_and_gradient):
    ours, batch = learner(variant=variant), tasks()
    vectorized = loss_and_gradient(ours, batch)
    ours.vectorized = False
    torch.testing.assert_close(loss_and_gradient(ours, batch), vectorized, rtol=1e-6, atol=1e-10)


@pytest.mark.slow
def test_it_compiles_as_a_full_graph(loss_and_gradient):
    ours, batch = learner(), tasks()
    eager = loss_and_gradient(ours, batch)
    torch._dynamo.reset()
    compiled = loss_and_gradient(ours, batch, torch.compile(ours, backend="aot_eager", fullgraph=True))
    torch.testing.assert_close(compiled, eager, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "knn"}, "algo.variant must be one of svm, ridge; got 'knn'"),
        ({"C": 0.0}, "algo.C must be above 0; got 0.0"),
        ({"regularization": -1.0}, "algo.regularization must be above 0; got -1.0"),
        ({"scale": 0.0}, "algo.scale must be above 0; got 0.0"),
        ({"kernel_ridge": -1.0}, "algo.kernel_ridge must be at least 0; got -1.0"),
        ({"label_smoothing": 1.0}, "algo.label_smoothing must be at least 0 and below 1; got 1.0"),
    ],
)
def test_rejects_invalid_values(changes, message):
    with pytest.raises(ValueError, match=message):
        learner(**changes)


@pytest.mark.slow
def test_it_learns_in_float32():
    torch.manual_seed(0)
    ours = MetaOptNet(toy.mlp((2,)), 3, F.cross_entropy, **ARGS)
    before, after = toy.score(ours, toy.Blobs(), 100, toy.adam(lr=1e-2), meta_batch_size=4, tasks=60)
    assert after > max(0.85, before + 0.1)
