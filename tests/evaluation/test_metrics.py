"""Metrics of one task's predictions, each against a formula or another library's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from referees import roc_auc_score, stats

from metarun.evaluation.metrics import (
    BINS,
    CONFIDENCE,
    LEVELS,
    area_under_roc,
    classification,
    confidence,
    inside,
    instances,
    quantile,
    regression,
    sequence_metrics,
)
from metarun.learner.prediction import Gaussian, Samples
from metarun.tasks import Presentations

UNKNOWN = torch.tensor(torch.nan)


def test_classification_metrics():
    logits, y = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 3, 0]]), torch.tensor([0, 1, 2])
    scores = classification(logits, y, UNKNOWN)
    assert scores["accuracy"].item() == pytest.approx(2 / 3)
    assert scores["nll"].item() == pytest.approx(F.cross_entropy(logits, y).item())
    samples = classification(Samples(torch.stack([logits, -logits])), y, UNKNOWN)
    mixture = (logits.softmax(-1) + (-logits).softmax(-1)) / 2
    assert samples["nll"].item() == pytest.approx(-mixture[torch.arange(3), y].log().mean().item(), rel=1e-5)


def test_regression_metrics():
    y, mean, variance = torch.zeros(4, 1), torch.ones(4, 1), torch.full((4, 1), 2.0)
    scores = regression(Gaussian(mean, variance), y, UNKNOWN)
    assert scores["mse"].item() == pytest.approx(1)
    by_hand = -torch.distributions.Normal(mean, variance.sqrt()).log_prob(y).mean()
    assert scores["nll"].item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert scores["coverage"].item() == 1
    batched = torch.func.vmap(regression, (0, 0, None))(Gaussian(mean[None], variance[None]), y[None], UNKNOWN)
    assert batched["nll"].item() == pytest.approx(by_hand.item(), rel=1e-6)
    averaged = regression(Samples(torch.stack([mean, -mean])), y, UNKNOWN)
    assert averaged["mse"].item() == pytest.approx(0)


def test_coverage_is_the_share_of_targets_in_the_central_interval():
    """Of a normal distribution 95 %; of twice its standard deviation 99.99 %, of half of it 67.3 %."""
    y = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros_like(y)
    for spread, share in ((1.0, 0.95), (2.0, 0.99991), (0.5, 0.6729)):
        scores = regression(Gaussian(zero, torch.full_like(y, spread**2)), y, UNKNOWN)
        assert scores["coverage"].item() == pytest.approx(share, abs=0.002)
    edges = torch.tensor([[1.95], [1.97], [-1.95], [-1.97]])
    assert regression(Gaussian(edges * 0, edges * 0 + 1), edges, UNKNOWN)["coverage"].item() == 0.5


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_the_area_is_scikit_learns_also_with_ties_and_under_vmap(decimals):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 40, generator=generator, dtype=torch.float64).mul(2).round(decimals=decimals)
    y = torch.rand(5, 40, generator=generator).lt(0.3).long()
    areas = torch.func.vmap(area_under_roc)(scores, y)
    expected = [roc_auc_score(*pair) for pair in zip(y.numpy(), scores.numpy(), strict=True)]
    np.testing.assert_allclose(areas, expected, rtol=0, atol=1e-9)
    assert area_under_roc(torch.zeros(6), torch.tensor([1, 1, 0, 0, 0, 0])) == 0.5  # all tie


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_the_area_of_scores_that_are_not_finite_is_nan(bad):
    assert area_under_roc(torch.tensor([1.0, bad, 0.0]), torch.tensor([1, 1, 0])).isnan()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite_predict_no_class(bad):
    """The argmax of NaN is 0, and the label is 0 here."""
    logits, y = torch.tensor([[bad, 0.0, 0.0], [3.0, 0.0, 0.0]]), torch.tensor([0, 0])
    for prediction in (logits, Samples(torch.stack([torch.zeros_like(logits), logits]))):
        if bad == -torch.inf and isinstance(prediction, Samples):
            continue  # the mean of two probabilities, of which one is 0, is a probability
        scores = classification(prediction, y, UNKNOWN)
        assert scores["accuracy"].isnan() and not scores["nll"].isfinite()
        assert confidence(prediction, y, UNKNOWN)["bin_correct"].isnan().all()


def mixture(n=50, samples=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(samples, n, 1, generator=generator, dtype=torch.float64)
    y = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    return means, y


def test_samples_are_a_mixture_of_normal_distributions():
    means, y = mixture()
    variance = torch.tensor(0.3, dtype=torch.float64)
    scores = regression(Samples(means, variance), y, UNKNOWN)
    density = stats.norm(means.numpy(), np.sqrt(0.3)).pdf(y.numpy()).mean(0)
    below = stats.norm(means.numpy(), np.sqrt(0.3)).cdf(y.numpy()).mean(0)
    assert scores["nll"].item() == pytest.approx(-np.log(density).mean())
    np.testing.assert_allclose(quantile(Samples(means, variance), y, UNKNOWN), below)
    assert scores["coverage"].item() == pytest.approx((np.abs(2 * below - 1) <= 0.95).mean())


def test_points_have_the_variance_of_validation_errors_and_no_distribution_without_it():
    means, y = mixture()
    point, variance = means[0], torch.tensor(1.7, dtype=torch.float64)
    from_point, normal = regression(point, y, variance), regression(Gaussian(point, variance.expand(50, 1)), y, UNKNOWN)
    assert all(torch.equal(from_point[name], normal[name]) for name in normal)
    unknown = regression(point, y, UNKNOWN)
    assert unknown["mse"] == normal["mse"] and unknown["nll"].isnan() and unknown["coverage"].isnan()
    assert inside(point, y, UNKNOWN)["inside"].isnan().all()
    fitted = regression(Samples(means), y, variance)
    assert torch.equal(fitted["nll"], regression(Samples(means, variance), y, UNKNOWN)["nll"])


def test_of_a_right_distribution_each_interval_holds_its_share():
    generator = torch.Generator().manual_seed(1)
    mean, y = torch.zeros(20_000, 1), torch.randn(20_000, 1, generator=generator)
    right = inside(Gaussian(mean, torch.ones_like(mean)), y, UNKNOWN)["inside"]
    np.testing.assert_allclose(right, LEVELS, atol=0.012)
    too_sure = inside(Gaussian(mean, torch.full_like(mean, 0.25)), y, UNKNOWN)["inside"]
    assert (too_sure < right).all() and too_sure[9] < 0.35  # of level 0.5


def test_confidences_are_counted_by_bin():
    generator = torch.Generator().manual_seed(0)
    logits, y = 2 * torch.randn(500, 4, generator=generator), torch.randint(4, (500,), generator=generator)
    counted = confidence(logits, y, UNKNOWN)
    sure, chosen = (v.numpy() for v in logits.softmax(-1).max(-1))
    numbers = np.ceil(sure * BINS).astype(int) - 1
    for at in range(BINS):
        member = numbers == at
        expected = (member.sum(), sure[member].sum(), (chosen == y.numpy())[member].sum())
        np.testing.assert_allclose([counted[name][at] for name in CONFIDENCE], expected, rtol=1e-5)
    assert counted["bin_size"].sum() == 500
    certain = confidence(torch.tensor([[100.0, 0.0]]), torch.tensor([1]), UNKNOWN)
    assert certain["bin_size"][-1] == 1 and certain["bin_correct"][-1] == 0


def test_confidence_of_samples_is_that_of_their_mean_probability():
    logits = torch.tensor([[[3.0, 0]], [[0.0, 3]]])  # two samples, sure of opposite classes
    counted = confidence(Samples(logits), torch.tensor([0]), UNKNOWN)
    assert counted["bin_confidence"].sum().item() == pytest.approx(0.5)


# ---------------------------------------------------------------------------------------------- shown one by one


def shown(y):
    y = torch.tensor(y)
    return Presentations(torch.zeros(*y.shape, 1), y, instances(y, 2) == 2)


def test_instances_are_counted_class_by_class():
    batch = shown([[0, 1, 1, 0, 0, 1], [1, 1, 1, 0, 0, 0]])
    assert instances(batch.y, 2).tolist() == [[1, 1, 2, 2, 3, 3], [1, 2, 3, 1, 2, 3]]


def test_an_item_that_is_not_finite_spoils_what_counts_it_and_nothing_else():
    batch = shown([[0, 1, 1, 0, 0, 1]])
    scores = 5 * F.one_hot(torch.tensor([[0, 0, 1, 1, 0, 1]]), 2).float()
    scores[0, 5] = torch.nan  # the third instance of class 1
    metrics = sequence_metrics(scores, batch, 2)
    assert {name for name, value in metrics.items() if value.isnan()} == {"accuracy_all", "instance_3"}
    assert metrics["accuracy"].item() == 0.5


def test_items_are_scored_instance_by_instance():
    batch = shown([[0, 1, 1, 0, 0, 1]])
    predicted = torch.tensor([[0, 0, 1, 1, 0, 1]])
    scores = 5 * F.one_hot(predicted, 2).float()
    metrics = sequence_metrics(scores, batch, 2)
    assert {name: values.item() for name, values in metrics.items() if name != "nll"} == {
        "accuracy": 0.5,  # of the second instances, which are scored
        "accuracy_all": pytest.approx(4 / 6),
        "instance_1": 0.5,
        "instance_2": 0.5,
        "instance_3": 1.0,
    }
    scored = F.cross_entropy(scores[0, 2:4], batch.y[0, 2:4])
    assert metrics["nll"].item() == pytest.approx(scored.item())
