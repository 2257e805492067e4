"""Each image is changed by its own draw, within its bounds, and torchvision agrees on what the changes are."""

import pytest
import torch
from referees import Referee
from referees import torchvision_functional as tv

augment = Referee("metarun.images.augment")  # it imports torchvision
augmentation, crop, flip, jitter = (
    Referee("metarun.images.augment", name) for name in ("augmentation", "crop", "flip", "jitter")
)


def images(n=40, channels=3, side=21, seed=0):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_crops_are_windows_of_the_padded_image():
    x = images()
    y = crop(x, generator())
    padded = tv.pad(x, [2] * 4)
    windows = {(i, j): padded[:, :, i : i + 21, j : j + 21] for i in range(5) for j in range(5)}
    shifts = [next(at for at, w in windows.items() if torch.equal(w[n], y[n])) for n in range(40)]
    assert len(set(shifts)) > 12  # many of the 25, each image its own


def test_flips_mirror_every_other_image():
    x = images(200)
    y = flip(x, generator())
    mirrored = (y == x.flip(-1)).flatten(1).all(1)
    assert ((y == x).flatten(1).all(1) ^ mirrored).all() and 70 < mirrored.sum() < 130


def test_jitter_is_torchvisions_brightness_contrast_and_saturation(monkeypatch):
    factors = torch.tensor([[1.3, 0.7], [0.8, 1.2], [0.6, 1.4]])
    drawn = ((factors - 1) / augment.JITTER + 1) / 2
    x = images(2)
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: drawn.view(shape))
    y = jitter(x, generator())
    for n, (brightness, contrast, saturation) in enumerate(factors.T.tolist()):
        wanted = tv.adjust_saturation(tv.adjust_contrast(tv.adjust_brightness(x[n], brightness), contrast), saturation)
        torch.testing.assert_close(y[n], wanted, rtol=1e-4, atol=1e-5)


def test_jitter_differs_from_image_to_image_and_stays_in_range():
    x = images(1).expand(50, -1, -1, -1)
    y = jitter(x, generator())
    assert y.min() >= 0 and y.max() <= 1 and len(y.flatten(1).mean(1).unique()) == 50


def test_changes_come_one_after_the_other_from_the_generator_alone():
    change, before = augmentation(["crop", "flip"], 3), torch.get_rng_state()
    assert change is not None
    one, same, other = (change(images(), generator(seed)) for seed in (1, 1, 2))
    again = generator(1)
    assert torch.equal(one, flip(crop(images(), again), again))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())
    assert augmentation([], 3) is None


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"data\.augment must be a list of crop, flip, jitter; got \['crop', 'turn'\]"):
        augmentation(["crop", "turn"], 3)
    with pytest.raises(
        ValueError,
        match=r"data\.augment must be without jitter, which needs RGB, for images of 1 channel; got \['jitter'\]",
    ):
        augmentation(["jitter"], 1)
