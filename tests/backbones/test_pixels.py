"""The inputs themselves."""

import pytest
import torch

from metarun.backbones.pixels import Pixels


def test_images_are_resized_by_averaging():
    x = torch.rand(3, 2, 28, 28)
    z = Pixels((2, 28, 28), None, 14)(x)
    assert z.shape == (3, 2 * 14 * 14)
    torch.testing.assert_close(z.view(3, 2, 14, 14)[1, 1, 3, 5], x[1, 1, 6:8, 10:12].mean())
    assert Pixels((1, 28, 28), None, 20)(x[:, :1]).shape == (3, 400)


def test_without_a_size_and_for_vectors_nothing_is_changed():
    x = torch.rand(3, 1, 5, 5)
    assert torch.equal(Pixels((1, 5, 5), None, None)(x), x.flatten(1))
    assert torch.equal(Pixels((7,), None, 20)(x.flatten(1)[:, :7]), x.flatten(1)[:, :7])
    assert not list(Pixels((7,), None, 20).parameters())


def test_with_outputs_it_ends_in_a_linear_layer():
    net = Pixels((1, 28, 28), 5, 20)
    assert net.head.in_features == 400 and net(torch.rand(2, 1, 28, 28)).shape == (2, 5)


@pytest.mark.parametrize("size", [0, 1.5, True])
def test_a_bad_size_is_named(size):
    with pytest.raises(ValueError, match=f"^backbone.size must be null or an integer of at least 1; got {size!r}$"):
        Pixels((1, 28, 28), None, size)
