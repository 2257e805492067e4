"""DEML against autograd by hand; its discriminator sees training classes only."""

import pytest
import torch
import toy
from torch import nn
from torch.func import functional_call

from metarun.algos.deml import DEML
from metarun.data.synthetic import Synthetic
from metarun.evaluation.evaluate import evaluate
from metarun.tasks import DataError, Examples, TaskAndBatch
from metarun.training.loop import TrainState, fit

BASE_CLASSES = 7


def arguments(**changes):
    defaults = {
        "base_classes": BASE_CLASSES,
        "concept_weight": 0.5,
        "initial_rates": (-0.2, 0.5),
        "inner_steps": 1,
        "eval_steps": 1,
    }
    return defaults | changes


@pytest.fixture
def deml(backbones):
    def build(**changes):
        torch.manual_seed(0)
        return DEML(
            backbone=backbones["conv4"], outputs=5, loss=nn.functional.cross_entropy, **arguments(**changes)
        ).double()

    return build


@pytest.fixture
def batch(draw):
    """Three tasks, each with a mini-batch of six images of seven classes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(3, 6, 1, 16, 16, generator=generator, dtype=torch.float64)
    return TaskAndBatch(*draw("conv4"), Examples(x, torch.randint(BASE_CLASSES, (3, 6), generator=generator)))


def by_hand(learner, batch, weight, steps=1):
    """Mean over tasks of both terms, with torch.autograd alone."""
    ce, total = nn.functional.cross_entropy, []
    for x, y, query_x, query_y, batch_x, batch_y in zip(*batch.support, *batch.query, *batch.batch, strict=True):
        phi, features = dict(learner.learner.named_parameters()), learner.generator(x)
        for _ in range(steps):
            gradients = torch.autograd.grad(
                ce(functional_call(learner.learner, phi, (features,)), y), list(phi.values()), create_graph=True
            )
            phi = {n: p - a * g for (n, p), a, g in zip(phi.items(), learner.rates, gradients, strict=True)}
        adapted = ce(functional_call(learner.learner, phi, (learner.generator(query_x),)), query_y)
        total.append(adapted + weight * ce(learner.discriminator(learner.generator(batch_x)), batch_y))
    return torch.stack(total).mean()


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_loss_and_meta_gradient_are_those_of_a_hand_written_loop(weight, steps, deml, batch):
    learner = deml(concept_weight=weight, inner_steps=steps)
    expected = by_hand(learner, batch, weight, steps)
    gradients = torch.autograd.grad(expected, list(learner.parameters()))
    loss = learner(batch).mean()
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    for (name, p), gradient in zip(learner.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(
            p.grad, gradient, rtol=1e-8, atol=1e-13, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_both_terms_train_the_generator_in_the_same_step(deml, batch):
    def gradient(weight):
        learner = deml(concept_weight=weight)
        learner(batch).mean().backward()
        return torch.cat([p.grad.flatten() for p in learner.generator.parameters()]), learner

    (both, learner), (tasks, without_discriminator) = gradient(1.0), gradient(0.0)
    classification = both - tasks
    assert tasks.norm() > 1e-3 and classification.norm() > 1e-3
    assert learner.discriminator.weight.grad.norm() > 1e-3
    assert without_discriminator.discriminator.weight.grad.norm() == 0  # lambda = 0: D is not trained


def test_the_inner_step_moves_the_meta_learner_alone_and_never_uses_the_discriminator(deml, batch, one):
    learner = deml(inner_steps=2, eval_steps=2).eval()
    task = one(batch[:2])
    before = [p(task.query.x) for p in learner.trajectory(task.support, 2)]
    torch.testing.assert_close(before[0], learner.learner(learner.generator(task.query.x)), rtol=1e-12, atol=0)
    assert not torch.allclose(before[0], before[1]) and not torch.allclose(before[1], before[2])
    nn.init.normal_(learner.discriminator.weight)
    after = [p(task.query.x) for p in learner.trajectory(task.support, 2)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_vmap_equals_a_loop(deml, batch, loss_and_gradient):
    learner = deml()
    vectorized = loss_and_gradient(learner, batch)
    learner.vectorized = False
    torch.testing.assert_close(vectorized, loss_and_gradient(learner, batch), rtol=1e-11, atol=1e-13)


@pytest.fixture(scope="module")
def glyphs():
    sizes = {"train_classes": 60, "val_classes": 10, "test_classes": 20, "drawings": 12}
    ways = {"ways": 5, "shots": 1, "queries": 5, "train_ways": 5, "train_queries": 5}
    return Synthetic(glyph_seed=0, **sizes, partition="glyphs", **ways, batch_size=16, device="cpu")


def on_glyphs():
    torch.manual_seed(0)
    backbone = toy.conv4(features="flatten")
    kwargs = arguments(base_classes=60, initial_rates=(0.3, 0.5), concept_weight=1.0)
    return DEML(backbone=backbone, outputs=5, loss=nn.functional.cross_entropy, **kwargs)


def test_the_discriminator_sees_training_classes_only(glyphs):
    """Each image it is trained on is in the train split, labelled with its class there; splits share no class."""
    learner, meta_optimizer, inputs = on_glyphs(), toy.adam(), []
    learner.generator.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    learner.vectorized = False
    step = next(fit(TrainState.create(learner, meta_optimizer, torch.device("cpu"), 0), glyphs, meta_optimizer, 10, 4))
    batches = step.batch.batch
    x, y = batches.x.flatten(0, 1), batches.y.flatten()
    stores = {split: glyphs._sampler(split).store for split in ("train", "test")}
    generator = torch.Generator()
    images = {split: store.take(torch.arange(len(store.pixels)), generator) for split, store in stores.items()}
    same = (x.flatten(1)[:, None] == images["train"].flatten(1)[None]).all(2)
    assert (same.any(1)).all() and torch.equal(same.int().argmax(1) // 12, y)
    assert not (x.flatten(1)[:, None] == images["test"].flatten(1)[None]).all(2).any()
    assert any(torch.equal(images_seen, batches.x[0]) for images_seen in inputs)
    assert set(glyphs.classes("train")).isdisjoint(glyphs.classes("test"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_classes": 0}, "algo.base_classes must be an integer of at least 1; got 0"),
        ({"concept_weight": -1.0}, "algo.concept_weight must be at least 0; got -1.0"),
        ({"initial_rates": (1.0, 0.0)}, "algo.initial_rates must be "),
        ({"inner_steps": -1}, "algo.inner_steps must be an integer of at least 0; got -1"),
    ],
)
def test_rejects_invalid_values(change, message, deml):
    with pytest.raises(ValueError, match=message):
        deml(**change)


def test_too_few_base_classes_are_refused_by_name(glyphs):
    """They ended in an index error of cross-entropy."""
    learner = on_glyphs()
    learner.check_data(glyphs)
    learner.discriminator = nn.Linear(learner.learner.in_features, 59)
    with pytest.raises(DataError, match="^algo.base_classes must be at least 60, as many as there are tr.*; got 59$"):
        learner.check_data(glyphs)


@pytest.mark.slow
def test_learns_glyphs(glyphs):
    """Adaptation to unseen classes and classification of training classes are both learned; untrained, both fail."""
    learner, meta_optimizer = on_glyphs(), toy.adam(lr=1e-2)
    x, y = glyphs.sample("train", "batches", 8, torch.Generator().manual_seed(3))

    def scores():
        with torch.no_grad():
            correct = learner.discriminator(learner.generator(x.flatten(0, 1))).argmax(1) == y.flatten()
        return evaluate(learner, glyphs, "test", 60, 0).estimate().mean, float(correct.float().mean())

    before = scores()
    for _ in fit(TrainState.create(learner, meta_optimizer, torch.device("cpu"), 0), glyphs, meta_optimizer, 200, 4):
        pass
    after = scores()
    assert before[0] < 0.3 and before[1] < 0.1  # chance: 0.2 and 0.017
    assert after[0] > 0.45 and after[1] > 0.4, after
