"""What is of images: normalisation, and random changes of training images."""

import pytest
import torch
from numbered_images import Toy, generator

from metarun.data.image_tasks import ImageTasks


def test_training_images_are_changed_at_random_and_no_others(sizes):
    plain, changed = (Toy([20] * 30, **sizes, **extra) for extra in ({}, {"augment": ["flip"]}))
    for stream in ("episodes", "batches", "pairs"):
        for split in ("train", "val", "test"):
            one, other, again = (toy.sample(split, stream, 30, generator(1)) for toy in (plain, changed, changed))
            x = [(batch.support.x if stream == "episodes" else batch.x) for batch in (one, other, again)]
            assert torch.equal(x[1], x[2])
            assert torch.equal(x[0], x[1]) == (split != "train")
            assert torch.equal(x[0].sort(-1).values, x[1].sort(-1).values)  # mirrored, whichever
    with pytest.raises(ValueError, match=r"data\.augment"):
        Toy([20] * 30, **sizes, augment=["turn"])


@pytest.mark.parametrize("channels", [0, 2, 4, "3", None])
def test_channels_are_one_or_three(sizes, channels):
    with pytest.raises(ValueError, match=rf"data\.channels must be 1 \(grey\) or 3 \(RGB\); got {channels!r}"):
        ImageTasks.__init__(Toy([20] * 4, **sizes), partition="toy", channels=channels, **sizes)


@pytest.mark.parametrize("mean, std", [([0.5], None), (None, [0.5]), ([0.5] * 3, [0.5] * 3), ([0.5], [0.0])])
def test_a_bad_normalisation_is_named(sizes, mean, std):
    with pytest.raises(ValueError, match=r"data\.mean and data\.std must be 1 numbers each, .*; got "):
        ImageTasks.__init__(Toy([20] * 4, **sizes), partition="toy", channels=1, mean=mean, std=std, **sizes)


def test_all_splits_are_normalised_alike(sizes):
    plain, normalised = Toy([20] * 30, **sizes), Toy([20] * 30, **sizes)
    normalised.mean, normalised.std = [0.25], [0.5]
    for split in ("train", "val", "test"):
        x, z = (data.sample(split, "episodes", 4, generator()).query.x for data in (plain, normalised))
        torch.testing.assert_close(z, (x - 0.25) / 0.5)


def test_a_users_pictures_are_prepared_as_the_tasks_are(sizes):
    """`inverted`, `background` and the normalisation of the data set; its images are not asked for."""

    class Paper(Toy):
        inverted, background = True, "black"

        def load(self, split):
            raise AssertionError("loaded")

    data = Paper([20] * 4, **sizes)
    data.mean, data.std = [0.25], [0.5]
    preparation = data.preparation()
    assert (preparation.height, preparation.width) == (1, 2)
    x = preparation(torch.tensor([[0, 255]], dtype=torch.uint8).numpy())
    torch.testing.assert_close(x, torch.tensor([[[[1.5, -0.5]]]]))
    assert (preparation.background, preparation.mean, preparation.std) == ("black", (0.25,), (0.5,))
