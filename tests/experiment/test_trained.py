"""A trained learner in a program of one's own: labels of any kind in, predictions of the same kind out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
import toy
from commands import SMALL, metarun, small

import metarun as package
from metarun.algos.alpaca import ALPaCA
from metarun.algos.baselines.nearest_centroid import NearestCentroid
from metarun.data.image_tasks import ImageTasks
from metarun.data.pairs import SyntheticPairs
from metarun.evaluation.metrics import components
from metarun.experiment.build import build, saved_config
from metarun.experiment.trained import Labels, TrainedLearner
from metarun.learner.learner import Learner
from metarun.run_folder import read_result
from metarun.tasks import Examples, TaskSet

CENTRES = torch.tensor([[-6.0, 0], [-3, 0], [0, 0], [3, 0], [6, 0], [9, 0], [12, 0]])


def trained(learner: Learner, data: TaskSet, algo: str) -> TrainedLearner:
    return TrainedLearner(learner.eval(), data, Path("run"), {"algo": algo, "data": "toy"})


def centroids() -> TrainedLearner:
    return trained(NearestCentroid(None, 5, toy.Blobs().loss), toy.Blobs(), "nearest_centroid")  # type: ignore[arg-type]


def maml_on_blobs() -> TrainedLearner:
    torch.manual_seed(0)
    return trained(toy.maml(toy.mlp((2,)), outputs=3, inner_lr=0.3, eval_steps=100), toy.Blobs(), "maml")


def maml_on_curves(variance: float = 0.25) -> TrainedLearner:
    learner = toy.maml()
    learner.residual_variance.fill_(variance)
    return trained(learner, toy.sinusoid(), "maml")


# ------------------------------------------------------------------------------------------------------- classes

NAMES = ["owl", "ant", "bee", "cat", "dog", "eel", "fox"]
KINDS: dict[str, tuple[Callable[[list[int]], Any], Callable[[Any], list]]] = {
    "tensor": (lambda n: torch.tensor(n) * 10 - 7, lambda y: (y + 7).div(10).tolist()),
    "array": (lambda n: np.array(n, np.int16) + 100, lambda y: (y - 100).tolist()),
    "array of strings": (lambda n: np.array(NAMES)[n], lambda y: [NAMES.index(name) for name in y]),
    "array of objects": (lambda n: np.array(NAMES, object)[n], lambda y: [NAMES.index(name) for name in y]),
    "list of strings": (lambda n: [NAMES[at] for at in n], lambda y: [NAMES.index(name) for name in y]),
    "tuple of pairs": (lambda n: tuple(("a", at) for at in n), lambda y: [at for _, at in y]),
    "list of both": (
        lambda n: [at if at % 2 else NAMES[at] for at in n],
        lambda y: [NAMES.index(v) if isinstance(v, str) else v for v in y],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_seven_classes_of_any_kind_come_back_in_that_kind(kind):
    """A five-way ProtoNet, given seven classes, dropped two without a word."""
    labels, numbers = KINDS[kind]
    adapted = centroids().adapt(CENTRES, labels(list(range(7))))
    order = [5, 0, 6, 2, 1, 4, 3]
    predicted = adapted.predict(CENTRES[order] + 0.1)
    assert numbers(predicted) == order
    assert type(predicted) is (list if isinstance(labels([0]), list | tuple) else type(labels([0])))
    if hasattr(predicted, "dtype"):
        assert predicted.dtype == labels([0]).dtype
    probabilities = adapted.predict_proba(CENTRES[order])
    assert probabilities.shape == (7, 7) and torch.allclose(probabilities.sum(1), torch.ones(7))
    columns = numbers(adapted.classes)  # the class of each column
    assert [columns[at] for at in probabilities.argmax(1).tolist()] == order


def test_three_classes_of_a_learner_of_five_are_three():
    adapted = centroids().adapt(CENTRES[:3], ["c", "a", "b"])
    assert adapted.classes == ["a", "b", "c"]
    assert adapted(CENTRES[:3]).shape == (3, 3) and adapted.predict(CENTRES[:3]) == ["c", "a", "b"]  # type: ignore[union-attr]


def test_a_pair_and_examples_are_taken_and_calling_gives_scores():
    learner, y = maml_on_blobs(), torch.arange(3)
    own = learner.learner.adapt(Examples(CENTRES[:3], y))(CENTRES)
    for adapted in (
        learner.adapt(CENTRES[:3], y),
        learner.adapt((CENTRES[:3], y)),
        learner.adapt(Examples(CENTRES[:3], y)),
    ):
        scores = adapted(CENTRES)
        assert isinstance(scores, torch.Tensor) and not scores.requires_grad and torch.equal(scores, own)


def test_two_adaptations_of_one_learner_do_not_disturb_each_other():
    learner = centroids()
    few, many = learner.adapt(CENTRES[:2], [0, 1]), learner.adapt(CENTRES, list(range(7)))
    assert (few(CENTRES).shape, many(CENTRES).shape) == ((7, 2), (7, 7))  # type: ignore[union-attr]
    assert learner.learner.ways == 5


def test_inputs_of_any_kind():
    learner = centroids()
    for x in (CENTRES.numpy(), CENTRES.double(), CENTRES.tolist(), list(CENTRES), CENTRES.int()):
        adapted = learner.adapt(x, NAMES)
        assert adapted.predict(x) == NAMES
        kind = {np.ndarray: np.ndarray, torch.Tensor: torch.Tensor, list: list}[type(x)]
        assert isinstance(adapted.predict_proba(x), kind)


def test_learners_whose_weights_fix_the_ways_say_how_many_they_want():
    message = "^y must be labels of 3 classes, the number that the weights of algo=maml are made for; got 7$"
    with pytest.raises(ValueError, match=message):
        maml_on_blobs().adapt(CENTRES, NAMES)
    assert maml_on_blobs().adapt(CENTRES[:3], NAMES[:3]).predict(CENTRES[:3]) == NAMES[:3]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (CENTRES, NAMES[:6], "y must be 7 labels, one of each input; got 6"),
        (CENTRES, [0.5] * 7, "y must be classes .* got 0.5"),
        (CENTRES, torch.rand(7), "y must be classes"),
        (CENTRES, torch.zeros(7, 1, dtype=torch.int64), "y must be one label of each input, of shape .n.; got .7, 1."),
        (CENTRES, [0] * 7, "y must be labels of at least 2 classes; got 1"),
        (CENTRES[:, :1], NAMES, r"x must be of shape \[n, 2\] with n of at least 1; got \[7, 1\]"),
        (CENTRES[0], [0], r"x must be of shape \[n, 2\]"),
        (CENTRES[:0], [], "x must be of shape"),
        (CENTRES * torch.nan, NAMES, "x must be finite"),
        (
            [[1, 2], [3]],
            [0, 1],
            "x must be a tensor, an array or a list of numbers, all examples of one shape; got list",
        ),
        (["a", "b"], [0, 1], "x must be a tensor, an array or a list of numbers"),
        (CENTRES, None, "adapt must be called with x and y"),
    ],
)
def test_what_does_not_fit_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        centroids().adapt(x, y)


def test_bytes_are_no_images():
    data = SyntheticPairs(
        glyph_seed=0,
        partition="glyphs",
        pairs=4,
        train_classes=6,
        val_classes=6,
        test_classes=6,
        drawings=4,
        device="cpu",
    )
    learner = trained(NearestCentroid(None, 5, data.loss), data, "nearest_centroid")  # type: ignore[arg-type]
    pictures = np.random.default_rng(0).integers(0, 255, (4, 1, 28, 28), dtype=np.uint8)
    with pytest.raises(ValueError, match="x must be floats, prepared as the images of data=toy are"):
        learner.adapt(pictures, [0, 0, 1, 1])
    images = pictures.astype(np.float32) / 255
    assert learner.adapt(images, [0, 0, 1, 1]).predict(images).count(1) == 2
    scores = learner.score_pairs(np.stack([images, images[[1, 0, 3, 2]]], 1))
    assert isinstance(scores, np.ndarray) and scores.shape == (4,)
    with pytest.raises(ValueError, match="algo must be one that compares pairs"):
        maml_on_blobs().score_pairs(images)


def test_a_prediction_that_is_not_finite_is_none():
    learner = trained(toy.maml(toy.mlp((2,)), outputs=3, inner_lr=float("inf"), eval_steps=9), toy.Blobs(), "maml")
    adapted = learner.adapt(CENTRES[:3], NAMES[:3])
    for ask in (adapted.predict, adapted.predict_proba):
        with pytest.raises(ArithmeticError, match="7 of 7 predictions are not finite: the learner diverged"):
            ask(CENTRES)


def test_labels_are_numbered():
    labels = Labels.of([3, 1, 3, 2])
    assert labels.classes == [1, 2, 3] and labels.numbers.tolist() == [2, 0, 2, 1]
    assert Labels.of(torch.tensor([True, False])).back(torch.tensor([0, 1])).tolist() == [False, True]


# --------------------------------------------------------------------------------------------------- regression


def test_a_regression_predicts_means_and_deviations_in_the_shape_of_its_targets():
    learner, x = maml_on_curves(), torch.linspace(-4, 4, 9)
    column = learner.adapt(x[:, None], x[:, None].sin())
    flat = learner.adapt(x.numpy(), x.sin().numpy())
    assert column.predict(x[:, None]).shape == column.deviation(x[:, None]).shape == (9, 1)
    np.testing.assert_array_equal(flat.predict(x.numpy()), column.predict(x[:, None])[:, 0])
    assert torch.equal(column.deviation(x), torch.full((9, 1), 0.5))
    with pytest.raises(ValueError, match="predict_proba is for classes"):
        flat.predict_proba(x)
    with pytest.raises(ValueError, match=r"y must be of shape \[9, 1\], a target of each input; got \[8\]"):
        learner.adapt(x, x[:8])
    with pytest.raises(ValueError, match="y must be finite"):
        learner.adapt(x, x * torch.nan)
    with pytest.raises(ValueError, match="the errors of algo=maml are not known"):
        maml_on_curves(torch.nan).adapt(x, x).deviation(x)
    with pytest.raises(ValueError, match="deviation is for a regression"):
        centroids().adapt(CENTRES, NAMES).deviation(CENTRES)


def test_a_distribution_has_its_own_deviation():
    torch.manual_seed(0)
    own = ALPaCA(toy.mlp(), 1, toy.sinusoid().loss, 0.02)
    adapted, x = trained(own, toy.sinusoid(), "alpaca").adapt([0.0, 1.0], [0.0, 0.8]), torch.linspace(-4, 4, 9)
    _, variances = components(adapted(x), torch.tensor(torch.nan))
    torch.testing.assert_close(adapted.deviation(x), variances[0, :, 0].sqrt())


@pytest.mark.slow
def test_the_spread_of_a_run_is_there_after_loading(tmp_path):
    """It was NaN: the run's own nll and coverage could not be had again."""
    result = small(folder=tmp_path)
    assert metarun(*SMALL, f"run.evaluate={tmp_path / 'run'}", "hydra.run.dir=again", folder=tmp_path).status == 0
    for name in ("run", "again"):
        learner = package.load(tmp_path / name)
        x = torch.linspace(-4, 4, 9)
        deviation = learner.adapt(x, x.sin()).deviation(x)
        assert deviation.tolist() == pytest.approx([result["validation"]["best"] ** 0.5] * 9)
    cfg, choices = saved_config(tmp_path / "run")
    batch = build(cfg, choices).data.eval_block("test", "episodes", 0)
    adapted = [learner.adapt(*(leaf[t] for leaf in batch.support)) for t in range(20)]  # type: ignore[union-attr]
    nll = [
        -torch.distributions.Normal(a.predict(x), a.deviation(x)).log_prob(y).mean()
        for a, x, y in zip(adapted, *batch.query, strict=True)  # type: ignore[union-attr]
    ]
    assert float(torch.stack(nll).mean()) == pytest.approx(
        read_result(tmp_path / "run")["metrics"]["nll"]["mean"], 1e-4
    )


# --------------------------------------------------------------------------------------------- a user's pictures


@pytest.mark.slow
def test_a_users_own_pictures_are_told_apart_in_eight_lines(real_data, tmp_path, monkeypatch):
    if not hasattr(ImageTasks, "preparation"):
        pytest.skip("image data sets have no preparation yet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("metarun.experiment.run.draw_result", lambda *_, **__: None)
    with ZipFile(real_data / "omniglot" / "omniglot_png.zip") as drawings:
        for alphabet, place, classes in (
            *(("Greek", "data/train", 20), ("Korean", "data/val", 5), ("Latin", "data/test", 5)),
            ("Tengwar", "mine", 7),
        ):
            for name in drawings.namelist():
                character, file = Path(name).parts[-2:]
                if f"/{alphabet}/" in name and name.endswith(".png") and int(character[-2:]) <= classes:
                    target = Path(place, alphabet + character, file)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(drawings.read(name))
    sizes = {"iterations": 60, "meta_batch_size": 2, "eval_tasks": 20, "val_tasks": 20, "validate_every": 60}
    images = ("data=imagefolder", "data.root=data", "data.size=28", "data.channels=1", "data.queries=2")
    small = ("data.train_ways=10", "data.train_queries=4", "backbone.filters=16", "backbone.norm=batch")

    run = package.train("algo=protonet", *images, *small, "optimizer.lr=0.01", "tracker=none", run=sizes)
    learner, prepare = package.load(run.folder), package.preparation(run.folder)
    pictures = sorted(Path("mine").rglob("*.png"))
    labels = [picture.parent.name for picture in pictures]
    known = [at for at in range(len(pictures)) if at % 20 < 5]  # five of each of seven characters
    adapted = learner.adapt(prepare([pictures[at] for at in known]), [labels[at] for at in known])
    predicted = adapted.predict(prepare(pictures))
    right = [name == label for name, label in zip(predicted, labels, strict=True)]

    assert len(pictures) == 140 and sorted(set(predicted)) == sorted(set(labels))
    assert np.mean(right) > 0.45  # chance: 0.14, and 0.03 its standard deviation
