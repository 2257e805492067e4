"""What a predictor returns are pytrees: they go through vmap as they are."""

import torch
from torch.utils import _pytree as pytree

from metarun.learner.prediction import Gaussian, Samples


def test_distributions_go_through_vmap():
    mean, values = torch.randn(3, 4, 1), torch.randn(3, 5, 4, 1)
    gaussian, samples = torch.func.vmap(lambda m, v: (Gaussian(m, m.exp()), Samples(v, m[0])))(mean, values)
    assert isinstance(gaussian, Gaussian) and isinstance(samples, Samples)
    torch.testing.assert_close(gaussian, Gaussian(mean, mean.exp()))
    torch.testing.assert_close(samples, Samples(values, mean[:, 0]))


def test_the_variance_of_samples_may_be_unknown():
    samples = Samples(torch.zeros(5, 4, 1))
    assert samples.variance is None
    assert pytree.tree_map(lambda leaf: leaf, samples).variance is None
