"""Learners learn: a trained one clears a bar that an untrained one fails, on tasks where it must fail."""

from __future__ import annotations

import pytest
import torch
import toy


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_learns_the_sinusoid(first_order):
    torch.manual_seed(0)
    learner = toy.maml(toy.mlp(hidden=[40, 40], activation="relu"), eval_steps=1, first_order=first_order)
    before, after = toy.score(learner, toy.sinusoid(), 2500, toy.adam(lr=2e-3))
    assert before > 2.4  # no adaptation: predicting nearly zero
    assert after < 1.3  # the best answer that does not adapt costs 3.1


@pytest.mark.slow
def test_stages_and_flat_batches_learn_to_classify():
    torch.manual_seed(0)
    data = toy.Blobs()
    # Blobs lie along the first axis; the second is noise a hundred times as large, which must be learned away.
    data.stretch = torch.tensor([1.0, 100.0])
    before, after = toy.score(toy.Pretrained(), data, 600, toy.adam(lr=1e-2), meta_batch_size=8)
    assert before < 0.6
    assert after > 0.75


@pytest.mark.slow
def test_without_outer_steps_nothing_is_learned():
    torch.manual_seed(0)
    learner = toy.maml(toy.mlp(hidden=[40, 40], activation="relu"), eval_steps=1)
    before, after = toy.score(learner, toy.sinusoid(), 300, toy.sgd(lr=1e-12))
    assert after == pytest.approx(before, rel=1e-3) and after > 2.4
