"""A threshold lets as many known queries through as it says, and refuses strangers where scores can tell."""

from __future__ import annotations

import pytest
import torch

import metarun
from metarun.learner.prediction import Samples
from metarun.predict.refusal import calibrate, score
from metarun.tasks import DataError


def test_the_score_is_the_highest_logit_or_of_samples_the_highest_probability():
    logits = torch.tensor([[1.0, 3.0], [-2.0, -5.0]])
    assert score(logits).tolist() == [3, -2]
    samples = Samples(torch.stack([logits, logits.flip(-1)]))
    assert torch.allclose(score(samples), torch.tensor([0.5, 0.5]).log())


def test_it_is_calibrated_on_validation_tasks_of_the_users_size(run):
    refusal = calibrate(metarun.load(run), 0.2, ways=2, shots=3)
    assert (refusal.ways, refusal.shots) == (2, 3)
    assert refusal.known == pytest.approx(0.2, abs=0.05)
    assert refusal.strangers == 1 and refusal.area == 1  # pixels of other colours are far


def test_there_are_no_more_ways_than_validation_has(run):
    assert calibrate(metarun.load(run), 0.1, ways=50, shots=1).ways == 3


def test_without_its_data_it_is_refused(run):
    trained = metarun.load(run)
    trained.data.root = "/nowhere"
    with pytest.raises(DataError, match="--reject is calibrated on the run's validation tasks: .* not found"):
        calibrate(trained, 0.1, 2, 1)
