"""The digits that scikit-learn ships with: which there are, which split has which, and that labels fit images."""

import pytest
import torch
from referees import load_digits

from metarun.data.digits import Digits
from metarun.tasks import DataError

SPLITS = ("train", "val", "test")


def digits(sizes, **changes):
    return Digits(**(sizes | {"split_seed": 0, "partition": "images"} | changes))


def as_set(images):
    """Each class's images as bytes; digits are all different (but for a few that are there twice)."""
    starts = images.starts.tolist()
    pixels = images.pixels.numpy()
    return [[pixels[i].tobytes() for i in range(s, s + n)] for s, n in zip(starts, images.counts.tolist(), strict=True)]


def test_every_image_is_in_one_split(sizes, cache):
    theirs = load_digits()
    data = digits(sizes)
    loaded = {split: data.load(split) for split in SPLITS}
    pixels = (torch.from_numpy(theirs.images) * 255 / 16).round().to(torch.uint8).unsqueeze(1).numpy()
    for label in range(10):
        ours = sorted(image for images in loaded.values() for image in as_set(images)[label])
        assert ours == sorted(image.tobytes() for image in pixels[theirs.target == label])
    shares = [len(images.pixels) / 1797 for images in loaded.values()]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.01)
    for images in loaded.values():
        assert images.names == tuple("0123456789") and images.pixels.shape[1:] == (1, 8, 8)
        assert images.pixels.dtype == torch.uint8 and images.pixels.max() == 255 and images.pixels.min() == 0
    assert min(int(loaded[split].counts.min()) for split in ("val", "test")) == 43  # what conf/data/digits.yaml says
    assert not cache.exists()


def test_the_seed_decides_who_is_where(sizes):
    one, same, other = (digits(sizes, split_seed=seed).load("test").pixels for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_labels_fit_images_across_splits(sizes):
    """The mean image of each class of one split names the class of most images of another."""
    data = digits(sizes | {"ways": 10, "train_ways": 10, "queries": 20, "train_queries": 20})
    train, test = (data.load(split) for split in ("train", "test"))
    labels = [torch.arange(10).repeat_interleave(images.counts) for images in (train, test)]
    means = torch.stack([train.pixels.flatten(1).float()[labels[0] == k].mean(0) for k in range(10)])
    nearest = torch.cdist(test.pixels.flatten(1).float(), means).argmin(1)
    assert (nearest == labels[1]).float().mean() > 0.85


def test_streams(sizes):
    data = digits(sizes | {"ways": 10, "shots": 20, "queries": 20, "instances": 25})
    task = data.sample("test", "episodes", 3, torch.Generator().manual_seed(0))
    assert task.support.x.shape == (3, 200, 1, 8, 8) and task.query.x.shape == (3, 200, 1, 8, 8)
    assert 0 <= task.support.x.min() and task.support.x.max() == 1
    both = torch.cdist(task.support.x[0].flatten(1), task.query.x[0].flatten(1))
    assert both.min() > 0  # no image twice
    batch = data.sample("train", "batches", 2, torch.Generator().manual_seed(0))
    assert batch.x.shape == (2, 5, 1, 8, 8) and data.outputs("train", "batches") == 10
    assert data.sample("val", "pairs", 2, torch.Generator().manual_seed(0)).x.shape == (2, 64, 2, 1, 8, 8)
    assert data.sample("val", "sequences", 2, torch.Generator().manual_seed(0)).x.shape == (2, 250, 1, 8, 8)
    assert data.in_shape() == (1, 8, 8)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"split_seed": -1}, r"data\.split_seed must be an integer of at least 0; got -1"),
        ({"partition": "half"}, r"data\.partition must be one of images; got 'half'"),
        ({"ways": 1}, r"data\.ways must be an integer of at least 2; got 1"),
    ],
)
def test_bad_values_are_named(sizes, change, says):
    with pytest.raises(ValueError, match=says):
        digits(sizes, **change)


def test_more_images_than_there_are_is_refused(sizes):
    with pytest.raises(DataError, match="classes of split 'test' hold fewer"):
        digits(sizes | {"shots": 30, "queries": 20}).sample("test", "episodes", 1, torch.Generator())
