"""Is it ALPaCA? Against Bayesian linear regression by numpy, one example at a time and by scikit-learn."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy
from clusters import one
from referees import DotProduct, GaussianProcessRegressor, multivariate_normal

from metarun.algos.alpaca import JITTER, ALPaCA
from metarun.evaluation.evaluate import evaluate
from metarun.learner.learner import slice_tasks
from metarun.sampling import stream_generator
from metarun.tasks import Examples
from metarun.training.loop import TrainState, fit


def learner(seed=0, outputs=1, hidden=(8, 6), dtype=torch.float64, **changes):
    torch.manual_seed(seed)
    kwargs = {"noise_variance": 0.0625} | changes
    return ALPaCA(toy.mlp(hidden=list(hidden)), outputs, F.mse_loss, **kwargs).to(dtype)


def arrays(ours, examples):
    """Features, targets, K0 and Lambda0 as numpy arrays."""
    L = ours.L.detach().numpy()
    return (
        ours.net(examples.x).detach().numpy(),
        examples.y.numpy(),
        ours.K0.detach().numpy(),
        L @ L.T + JITTER * np.eye(len(L)),
    )


def predicted(ours, support, x, seen=None):
    predictor = ours.adapt(support) if seen is None else ours.posterior(support, seen)
    return [leaf.detach().numpy() for leaf in predictor(x)]


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("n", [1, 4, 10])
def test_mean_and_variance_are_those_of_bayesian_linear_regression(n, outputs, draw):
    ours, task = learner(outputs=outputs), one(draw("mlp"))
    support = Examples(task.support.x[:n], torch.cat([task.support.y[:n] * (1 + c) for c in range(outputs)], 1))
    phi, y, K0, prior = arrays(ours, support)
    covariance = np.linalg.inv(phi.T @ phi + prior)
    K = covariance @ (phi.T @ y + prior @ K0)
    queries = ours.net(task.query.x).detach().numpy()
    mean, variance = predicted(ours, support, task.query.x)
    np.testing.assert_allclose(mean, queries @ K, rtol=1e-7, atol=1e-9)
    spread = 0.0625 * (1 + np.einsum("ni,ij,nj->n", queries, covariance, queries))
    np.testing.assert_allclose(variance, np.repeat(spread[:, None], outputs, 1), rtol=1e-7)


def test_one_example_at_a_time_gives_the_posterior_of_all(draw):
    """Recursive least squares (the code's incorporate_transition), which inverts nothing."""
    ours, task = learner(), one(draw("mlp"))
    phi, y, K0, prior = arrays(ours, task.support)
    covariance, moment = np.linalg.inv(prior), prior @ K0
    for f, target in zip(phi, y, strict=True):
        gain = covariance @ f
        covariance -= np.outer(gain, gain) / (1 + f @ gain)
        moment += np.outer(f, target)
    queries = ours.net(task.query.x).detach().numpy()
    mean, variance = predicted(ours, task.support, task.query.x)
    np.testing.assert_allclose(mean, queries @ covariance @ moment, rtol=1e-6, atol=1e-6)
    spread = 0.0625 * (1 + np.einsum("ni,ij,nj->n", queries, covariance, queries))
    np.testing.assert_allclose(variance[:, 0], spread, rtol=1e-6)


def test_with_a_plain_prior_it_is_scikit_learns_gaussian_process(draw):
    """K normal about 0 with variance sigma^2 each: the features' inner product is the process's covariance."""
    ours, task = learner(), one(draw("mlp"))
    with torch.no_grad():
        ours.K0.zero_()
        ours.L.copy_(torch.eye(6).double() * math.sqrt(1 - JITTER))
    phi, y, *_ = arrays(ours, task.support)
    process = GaussianProcessRegressor(
        0.0625 * DotProduct(sigma_0=0.0, sigma_0_bounds="fixed"), alpha=0.0625, optimizer=None
    ).fit(phi, y[:, 0])
    expected, deviation = process.predict(ours.net(task.query.x).detach().numpy(), return_std=True)
    mean, variance = predicted(ours, task.support, task.query.x)
    np.testing.assert_allclose(mean[:, 0], expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(variance[:, 0], deviation**2 + 0.0625, rtol=1e-6)


def test_the_variance_falls_with_every_example_and_most_where_they_lie(draw):
    ours, task = learner(), one(draw("mlp"))
    before = None
    for n in range(11):
        seen = (torch.arange(10) < n).double()
        _, variance = predicted(ours, task.support, task.support.x, seen)
        if before is not None:
            assert (variance < before).all()
            fall = before - variance
            assert fall[n - 1] / before[n - 1] >= 0.1 * (fall / before).max()
        before = variance


def test_examples_that_are_not_seen_do_not_count(draw):
    ours, task = learner(), one(draw("mlp"))
    seen = torch.tensor([1.0, 0, 1, 0, 0, 0, 0, 0, 0, 1], dtype=torch.float64)
    some = Examples(*(leaf[seen == 1] for leaf in task.support))
    whole = predicted(ours, task.support, task.query.x, seen)
    for a, b in zip(whole, predicted(ours, some, task.query.x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    mean, _ = predicted(ours, task.support, task.query.x, torch.zeros(10).double())
    np.testing.assert_allclose(mean, (ours.net(task.query.x) @ ours.K0).detach().numpy(), rtol=1e-6, atol=1e-9)


def test_the_loss_is_the_negative_log_density_of_what_is_seen(draw):
    ours, task = learner(), one(draw("mlp"))
    seen = (torch.arange(10) < 3).double()
    for random_inputs, context in ((seen, seen), ((), None)):
        mean, variance = predicted(ours, task.support, task.query.x, context)
        densities = [multivariate_normal(m, v).logpdf(y) for m, v, y in zip(mean, variance, task.query.y, strict=True)]
        assert ours.meta_loss(task, random_inputs).item() == pytest.approx(-np.mean(densities))


def test_context_sizes_are_all_equally_likely_from_none_to_all(draw):
    """In training; a batch's tasks differ. The support set counts whole at test."""
    ours, batch = learner(), draw("mlp")
    many = type(batch)(*(Examples(*(leaf[:1].expand(4400, *leaf.shape[1:]) for leaf in half)) for half in batch))
    seen = ours.random_inputs(many, 0, stream_generator("cpu", "test"))
    assert seen.shape == (4400, 10)
    sizes = seen.sum(1).long()
    assert torch.equal(seen, (torch.arange(10) < sizes[:, None]).float())
    counts = sizes.bincount(minlength=11)
    assert len(counts) == 11
    assert (counts - 400).abs().max() < 100  # five standard deviations
    task = one(batch)
    for eval_mode in (False, True):
        ours.train(not eval_mode)
        with_random_inputs = ours.adapt(task.support, torch.zeros(10))(task.query.x)
        torch.testing.assert_close(with_random_inputs, ours.adapt(task.support)(task.query.x))


def losses_and_gradient(ours, batch, random_inputs):
    ours.zero_grad()
    losses = ours(batch, random_inputs)
    losses.mean().backward()
    return losses.detach(), torch.cat([p.grad.flatten() for p in ours.parameters()])


def test_vmap_is_a_loop_and_every_task_has_its_own_context(draw):
    ours, batch = learner(), draw("mlp")
    random_inputs = ours.to_dtype(ours.random_inputs(batch, 0, stream_generator("cpu", "test")))
    together = losses_and_gradient(ours, batch, random_inputs)
    ours.vectorized = False
    torch.testing.assert_close(losses_and_gradient(ours, batch, random_inputs), together, rtol=1e-9, atol=1e-10)
    assert not torch.allclose(ours(batch, torch.ones_like(random_inputs)), together[0])
    two_tasks = ours(slice_tasks(batch, 1, 3), random_inputs[1:3])
    torch.testing.assert_close(two_tasks.detach(), together[0][1:3])


def test_meta_gradient_agrees_with_finite_differences(draw, slopes_agree):
    slopes_agree(learner(), draw("mlp"))


def test_refuses_a_variance_of_zero_and_features_that_are_not_a_vector():
    with pytest.raises(ValueError, match=r"^algo\.noise_variance must be above 0; got 0\.0$"):
        learner(noise_variance=0.0)
    message = "^backbone must be a network that ends in a vector of features, such as backbone=mlp; got 'Conv4'$"
    with pytest.raises(ValueError, match=message):
        ALPaCA(toy.conv4(), 1, F.mse_loss, 0.02)


@pytest.mark.slow
def test_it_learns_the_sinusoid_and_knows_how_well():
    """Small: the published sizes take a minute. Float32, as runs are."""
    ours = learner(hidden=(64, 64, 24), dtype=torch.float32, noise_variance=0.02)
    data = toy.sinusoid(noise=math.sqrt(0.02), train_queries=20)
    meta_optimizer = toy.adam(lr=3e-3)
    for _ in fit(TrainState.create(ours, meta_optimizer, torch.device("cpu"), 0), data, meta_optimizer, 800, 10):
        pass
    ten_shots = evaluate(ours, data, "test", 100, 0)
    assert ten_shots.estimate().mean < 0.8
    assert 0.85 < ten_shots.estimate("coverage").mean < 0.99
    one_shot = evaluate(ours, toy.sinusoid(noise=math.sqrt(0.02), shots=1), "test", 100, 0)
    assert one_shot.estimate("coverage").mean > 0.85
