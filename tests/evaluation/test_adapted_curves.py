"""Predictions on a few curves, before and after adaptation, of the learner as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import toy
from referees import imread

from metarun.data.polynomial import Polynomial
from metarun.evaluation.adapted_curves import adapted_curves
from metarun.learner.prediction import Gaussian, Samples
from metarun.report.run_figures import adapted_curves as draw


def test_predictions_approach_the_curve_with_the_steps():
    torch.manual_seed(0)
    learner = toy.maml(inner_lr=0.05)
    examples = adapted_curves(learner, toy.sinusoid(), tasks=3, points=50)
    assert len(examples) == 3
    for example in examples:
        assert set(example["predictions"]) == {0, 1, 10}
        before, after = (np.abs(example["predictions"][k] - example["y"]).mean() for k in (0, 10))
        assert example["y"].shape == (50,) and after < before
    first, second = (example["predictions"] for example in examples[:2])
    np.testing.assert_allclose(first[0], second[0])  # one function before adapting
    assert np.abs(first[1] - second[1]).max() > 1e-3  # and one for each task after
    assert learner.training


POLYNOMIAL = Polynomial(
    order=2, coefficients=(-1.0, 1.0), x=(-2.0, 2.0), shots=10, queries=20, train_queries=10, device="cpu"
)


@pytest.mark.parametrize("data", [toy.sinusoid(), POLYNOMIAL], ids=["sinusoid", "polynomial"])
def test_they_are_what_a_picture_is_drawn_from(tmp_path, data):
    draw(adapted_curves(toy.maml(), data, tasks=2), tmp_path / "x.png")
    assert imread(tmp_path / "x.png").std() > 0.01


def test_data_without_curves_have_none():
    assert adapted_curves(toy.Pretrained(), toy.Blobs()) == []


@pytest.mark.parametrize("kind", ["samples", "deviation"])
def test_they_hold_the_distribution_that_a_learner_predicts(kind):
    class Uncertain(toy.Recurrent):
        def adapt(self, support, random_inputs=()):
            mean = super().adapt(support, random_inputs)
            if kind == "samples":
                return lambda x: Samples(torch.stack([mean(x) - 1, mean(x) + 1]))
            return lambda x: Gaussian(mean(x), torch.full_like(mean(x), 4.0))

    for example in adapted_curves(Uncertain(), toy.sinusoid(), tasks=2, points=30):
        mean = example["predictions"][0]
        if kind == "samples":
            np.testing.assert_allclose(example["samples"], [mean - 1, mean + 1], rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_allclose(example["deviation"], np.full(30, 2.0))
