"""A user's own pictures become what the data set itself delivers for the same files."""

import dataclasses
import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.data.digits import Digits
from metarun.data.imagefolder import ImageFolder
from metarun.data.miniimagenet import MiniImageNet
from metarun.data.omniglot import Omniglot
from metarun.data.synthetic import Synthetic
from metarun.images.preparation import Preparation
from metarun.tasks import DataError


def pictures(tmp_path):
    """Colourful, transparent and of 16 bits, of several sizes, on disk."""
    rng = np.random.RandomState(0)
    images = [
        Image.fromarray(rng.randint(256, size=(9 + i, 8, channels), dtype=np.uint8))
        for i, channels in enumerate((3, 4))
    ]
    images.append(Image.fromarray(rng.randint(65536, size=(8, 8), dtype=np.uint16)))
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    return [tmp_path / f"{i}.png" for i in range(3)]


@pytest.mark.parametrize(
    "channels, mean, std", [(3, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]), (1, [0.5], [0.25]), (3, None, None)]
)
def test_it_is_what_the_data_set_delivers(tmp_path, sizes, channels, mean, std):
    (tmp_path / "test" / "a").mkdir(parents=True)
    paths = pictures(tmp_path / "test" / "a")
    data = ImageFolder(
        root=tmp_path, size=7, channels=channels, background="#102030", partition="folders", mean=mean, std=std, **sizes
    )
    delivered = data.store("test").take(torch.arange(3), torch.Generator())
    preparation = data.preparation()
    x = preparation(paths)
    assert x.shape == (3, channels, 7, 7) and x.dtype == torch.float32 and torch.equal(x, delivered)
    copy = pickle.loads(pickle.dumps(preparation))
    assert copy == preparation and torch.equal(copy([str(path) for path in paths]), delivered)
    assert torch.equal(preparation([Image.open(path) for path in paths]), delivered)
    assert torch.equal(preparation([np.asarray(Image.open(path)) for path in paths[:2]]), delivered[:2])
    assert torch.equal(preparation(paths[1]), delivered[1:2]) and torch.equal(preparation(iter(paths)), delivered)
    assert preparation([]).shape == (0, channels, 7, 7)


def test_arrays():
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    plain = Preparation(1, 4, 5)
    expected = torch.from_numpy(grey)[None, None] / 255
    for picture in (grey, grey[..., None], [grey], grey[None, ..., None], Image.fromarray(grey)):
        torch.testing.assert_close(plain(picture), expected)
    torch.testing.assert_close(dataclasses.replace(plain, inverted=True)(grey), 1 - expected)
    assert plain(grey[:, ::-1]).shape == (1, 1, 4, 5)


@pytest.mark.parametrize(
    ("picture", "got"),
    [
        (np.zeros((4, 5)), r"an array \[4, 5\] of float64"),
        (np.zeros((4, 5, 2), np.uint8), r"an array \[4, 5, 2\] of uint8"),
        (np.zeros(4, np.uint8), r"an array \[4\] of uint8"),
        ([3], "int"),
        (torch.zeros(1, 4, 5), "Tensor"),
    ],
)
def test_what_is_no_picture_is_refused(picture, got):
    with pytest.raises(ValueError, match=rf"a picture must be a path, a PIL image, or a uint8 array .*; got {got}"):
        Preparation(1, 4, 5)(picture)


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"a\.png cannot be read as an image: it is a web page"):
        Preparation(1, 4, 5)(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"none\.png cannot be read \(No such file"):
        Preparation(1, 4, 5)(tmp_path / "none.png")


def test_ink_is_light_where_the_data_set_has_it_so(sizes):
    """A picture of a dark stroke on white paper, in all sets of drawings."""
    picture = np.full((40, 40), 255, np.uint8)
    picture[:, 18:22] = 0
    paper = {"root": None, "split_seed": 0, "partition": "maml"}
    glyphs = {
        "glyph_seed": 0,
        "train_classes": 4,
        "val_classes": 4,
        "test_classes": 4,
        "drawings": 5,
        "partition": "glyphs",
    }
    for data, side in (
        (Omniglot(**paper, **sizes), 28),
        (Digits(split_seed=0, partition="images", **sizes), 8),
        (Synthetic(**glyphs, **sizes), 28),
    ):
        x = data.preparation()(picture)
        assert (
            x.shape == (1, 1, side, side)
            and x[0, 0, :, 0].max() == 0
            and x[0, 0, :, side // 2 - 1 : side // 2 + 1].min() > 0.4
        )


@pytest.mark.slow
@pytest.mark.data
def test_real_omniglot(real_root, sizes, tmp_path):
    data = Omniglot(root=real_root, partition="small", split_seed=0, **sizes)
    number = data.classes("test").index("Sanskrit/character05/rot000")
    delivered = data.store("test").take(torch.arange(20) + 20 * number, torch.Generator())
    with zipfile.ZipFile(real_root / "omniglot" / "omniglot_png.zip") as files:
        names = sorted(name for name in files.namelist() if "/Sanskrit/character05/" in name and name.endswith(".png"))
        paths = [files.extract(name, tmp_path) for name in names]
    assert torch.equal(data.preparation()(paths), delivered)


@pytest.mark.slow
@pytest.mark.data
def test_real_mini_imagenet(real_root, sizes):
    mean, std = [0.4710, 0.4503, 0.4053], [0.2717, 0.2648, 0.2785]
    data = MiniImageNet(root=real_root, partition="ravi", mean=mean, std=std, **sizes)
    name = data.classes("val")[3]
    delivered = data.store("val").take(torch.arange(1800, 1810), torch.Generator())
    with zipfile.ZipFile(real_root / "mini_imagenet" / "mini_imagenet_val.zip") as files:
        names = sorted(member for member in files.namelist() if f"/{name}/" in member and not member.endswith("/"))[:10]
        images = [Image.open(io.BytesIO(files.read(member))) for member in names]
    assert torch.equal(data.preparation()(images), delivered)
