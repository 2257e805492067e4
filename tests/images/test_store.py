"""The store of images: what is taken are the bytes, normalised."""

import torch
from numbered_images import generator, numbered, numbers, stored

from metarun.images.store import Images, ImageStore

CPU = torch.device("cpu")


def test_normalisation():
    pixels = torch.randint(256, (6, 3, 4, 4), dtype=torch.uint8, generator=generator())
    images = Images(pixels, ("a", "b"), torch.tensor([3, 3]))
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 2.0]
    x = ImageStore(images, CPU, mean, std).take(torch.arange(6), generator())
    wanted = (pixels.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(x, wanted)
    plain = ImageStore(images, CPU).take(torch.arange(6), generator())
    torch.testing.assert_close(plain, pixels.float() / 255)
    assert pixels.equal(images.pixels)


def test_images_are_taken_by_number_in_any_shape():
    index = torch.tensor([[3, 0, 3], [5, 1, 4]])
    x = stored([2, 4]).take(index, generator())
    assert x.shape == (2, 3, 1, 1, 2) and x.dtype == torch.float32
    assert torch.equal(numbers(x), index)


def test_classes_begin_where_the_ones_before_end():
    images = numbered([2, 4, 1])
    assert images.starts.tolist() == [0, 2, 6]
    store = ImageStore(images, CPU)
    assert store.names == ("class0", "class1", "class2") and store.counts.tolist() == [2, 4, 1]


def test_images_are_changed_before_they_are_normalised_by_draws_of_the_generator():
    def augment(x, generator):
        assert 0 <= x.min() and x.max() <= 1
        return 1 - x * torch.rand(len(x), 1, 1, 1, generator=generator)

    images = numbered([300])
    store, index = ImageStore(images, CPU, [0.25], [0.5], augment), torch.arange(300)
    x, again, other = (store.take(index, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(x, again) and not torch.equal(x, other)
    factors = torch.rand(300, 1, 1, 1, generator=generator(1))
    torch.testing.assert_close(x, (1 - images.pixels / 255 * factors - 0.25) / 0.5)
