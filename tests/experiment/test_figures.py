"""Pictures of adapted functions: drawn for curves, from the learner as it stands."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
import torch
import toy

from metarun.data.polynomial import Polynomial
from metarun.evaluation.calibration import Calibration
from metarun.evaluation.evaluate import Evaluation
from metarun.experiment.figures import adapted_curves, instances, reliability
from metarun.learner.prediction import Gaussian, Samples
from metarun.report import run_figures as figures
from metarun.tracking.tracker import NullTracker


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


@pytest.mark.parametrize("kind", ["samples", "deviation"])
def test_the_picture_shows_what_a_learner_is_not_sure_of(tmp_path, monkeypatch, kind):
    class Unsure(toy.Recurrent):
        def adapt(self, support, random_inputs=()):
            mean = super().adapt(support, random_inputs)
            if kind == "samples":
                return lambda x: Samples(torch.stack([mean(x) - 1, mean(x) + 1]))
            return lambda x: Gaussian(mean(x), torch.full_like(mean(x), 4.0))

    shown = []
    monkeypatch.setattr(figures, "adapted_curves", lambda examples, path: shown.extend(examples))
    adapted_curves(Unsure(), toy.sinusoid(), tmp_path / "x.png", tasks=2, points=30)
    for example in shown:
        mean = example["predictions"][0]
        if kind == "samples":
            np.testing.assert_allclose(example["samples"], [mean - 1, mean + 1], rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_allclose(example["deviation"], np.full(30, 2.0))


class Notes(NullTracker):
    """Keeps what it is given."""

    def __init__(self):
        self.given = {}

    def table(self, name, columns, rows):
        self.given[name] = (columns, rows)

    def lines(self, name, x_name, lines):
        self.given[name] = (x_name, lines)


@pytest.mark.parametrize(
    ("metric", "names"),
    [("ece", ("confidence", "accuracy")), ("calibration_error", ("level of the interval", "targets inside"))],
)
def test_reliability_goes_to_the_folder_and_the_tracker(tmp_path, metric, names):
    about = {"claimed": [0.3, 0.7], "found": [0.4, 0.6], "weight": [0.5, 0.5]}
    notes = Notes()
    reliability(Calibration(metric, {"mean": 0.1, "ci95": 0.01, "median": None}, about), tmp_path / "r.png", notes)
    assert (tmp_path / "r.png").is_file()
    x_name, lines = notes.given["curve/reliability"]
    assert x_name == names[0] and lines[names[1]] == [(0.3, 0.4), (0.7, 0.6)]


def test_instances_go_to_the_folder_and_the_tracker_where_there_are_any(tmp_path):
    values = {"accuracy": np.ones((4, 1)), "instance_1": np.zeros((4, 1)), "instance_2": np.ones((4, 1))}
    notes = Notes()
    instances(Evaluation("accuracy", 0, values), 5, tmp_path / "i.png", notes)
    columns, rows = notes.given["instances"]
    assert columns == ["instance", "accuracy", "ci95"] and [row[:2] for row in rows] == [[1, 0.0], [2, 1.0]]
    assert (tmp_path / "i.png").is_file()
    instances(Evaluation("accuracy", 0, {"accuracy": np.ones((4, 1))}), 5, tmp_path / "none.png", Notes())
    assert not (tmp_path / "none.png").exists()
