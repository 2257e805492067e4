"""Synthetic glyphs: Omniglot's format, made from a seed, hard on pixels and learnable."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metarun.data.synthetic import Synthetic

SPLITS = ("train", "val", "test")


def glyphs(sizes, seed=0, train=400):
    classes = {"train_classes": train, "val_classes": 60, "test_classes": 100}
    return Synthetic(glyph_seed=seed, drawings=20, partition="glyphs", **classes, **sizes)


def test_omniglots_format(sizes, cache):
    data = glyphs(sizes)
    data.prepare()
    assert data.in_shape() == (1, 28, 28)
    for split, classes in zip(SPLITS, (400, 60, 100), strict=True):
        images = data.load(split)
        assert images.pixels.shape == (classes * 20, 1, 28, 28) and images.pixels.dtype == torch.uint8
        assert len(data.classes(split)) == classes and images.counts.unique().tolist() == [20]
        assert images.pixels.max() == 255 and images.pixels.min() == 0
        ink = images.pixels.float().mean() / 255
        assert 0.05 < ink < 0.15  # Omniglot: 0.08
        assert images.pixels.flatten(1).sum(1, dtype=torch.int64).min() > 0  # no empty drawing
    assert not cache.exists()


def test_the_seed_decides_the_glyphs(sizes):
    one, same, other = (glyphs(sizes, seed, train=5).load("test").pixels for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert not torch.equal(one[:1200], glyphs(sizes).load("val").pixels)


def test_more_training_glyphs_leave_the_test_as_it_is(sizes):
    few, many = (glyphs(sizes, train=n).load("test").pixels for n in (5, 50))
    assert torch.equal(few, many)


def prototypes(embed, task, ways):
    support, query = (embed(x.flatten(0, 1)).flatten(1).view(*x.shape[:2], -1) for x in (task.support.x, task.query.x))
    centres = support.view(len(support), ways, -1, support.shape[-1]).mean(2)
    return -(torch.cdist(query, centres) ** 2)


def accuracy(embed, task):
    return float((prototypes(embed, task, 5).argmax(-1) == task.query.y).float().mean())


@pytest.mark.slow
def test_hard_on_pixels_and_learnable(sizes):
    """Nearest centroid on pixels gets what it gets on Omniglot, 40 %; a small trained network far more."""
    data = glyphs(sizes | {"ways": 5, "queries": 5, "train_ways": 5, "train_queries": 5})
    eval_block = data.sample("test", "episodes", 300, torch.Generator().manual_seed(0))
    pixels = accuracy(lambda x: x, eval_block)
    assert 0.33 < pixels < 0.47
    torch.manual_seed(0)
    layers = [layer for i in (1, 16, 16) for layer in (nn.Conv2d(i, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())]
    net = nn.Sequential(*layers)
    untrained = accuracy(net, eval_block)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(120):
        task = data.sample("train", "episodes", 4, generator)
        loss = F.cross_entropy(prototypes(net, task, 5).flatten(0, 1), task.query.y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = accuracy(net, eval_block)
    assert trained > pixels + 0.12 and trained > untrained + 0.15, (pixels, untrained, trained)


@pytest.mark.parametrize("name", ["train_classes", "val_classes", "test_classes", "drawings"])
def test_a_bad_number_is_named(sizes, name):
    arguments = {"train_classes": 4, "val_classes": 4, "test_classes": 4, "drawings": 4, name: 0}
    with pytest.raises(ValueError, match=f"data.{name} must be an integer of at least 1; got 0"):
        Synthetic(glyph_seed=0, partition="glyphs", **arguments, **sizes)
