"""Pictures of adapted functions: drawn for curves, from the learner as it stands."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
import torch
import toy

from metarun import figures
from metarun.pictures import adapted_curves
from metarun.tasks.polynomial import Polynomial


def test_the_picture_shows_the_learners_predictions(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "adapted_curves", lambda examples, path: shown.extend(examples))
    torch.manual_seed(0)
    learner, data = toy.maml(inner_lr=0.05), toy.sinusoid()
    adapted_curves(learner, data, tmp_path / "x.png", tasks=3, points=50)
    assert len(shown) == 3
    for example in shown:
        assert set(example["predictions"]) == {0, 1, 10}
        before, after = (np.abs(example["predictions"][k] - example["y"]).mean() for k in (0, 10))
        assert example["y"].shape == (50,) and after < before
    np.testing.assert_allclose(shown[0]["predictions"][0], shown[1]["predictions"][0])  # one function before adapting
    assert np.abs(shown[0]["predictions"][1] - shown[1]["predictions"][1]).max() > 1e-3  # and one for each task after
    assert learner.training


POLYNOMIAL = Polynomial(
    order=2, coefficients=(-1.0, 1.0), x=(-2.0, 2.0), shots=10, queries=20, train_queries=10, device="cpu"
)


@pytest.mark.parametrize("data", [toy.sinusoid(), POLYNOMIAL], ids=["sinusoid", "polynomial"])
def test_a_picture_is_written(tmp_path, data):
    adapted_curves(toy.maml(), data, tmp_path / "x.png", tasks=2)
    assert matplotlib.image.imread(tmp_path / "x.png").std() > 0.01


@pytest.mark.parametrize("data", [toy.Blobs()])
def test_other_data_has_no_such_picture(tmp_path, data):
    adapted_curves(toy.Pretrained(), data, tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []
