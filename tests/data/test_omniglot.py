"""Omniglot: every layout reads alike, partitions hold what they say, and errors tell what to do."""

import hashlib
import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.data import download, omniglot
from metarun.data.omniglot import Omniglot
from metarun.tasks import DataError

SPLITS = ("train", "val", "test")
# A small Omniglot: three alphabets of two characters in the background, one of four in the evaluation half.
ALPHABETS = {"Alpha": ("images_background", 2), "Beta": ("images_background", 2)}
ALPHABETS |= {"Delta": ("images_background", 2), "Gamma": ("images_evaluation", 4)}
DRAWINGS = 3


def png(number):
    """A one-bit drawing that tells the number: black ink at the top left, its amount the number."""
    ink = np.ones((105, 105), bool)
    ink[: number + 1, :40] = False
    buffer = io.BytesIO()
    Image.fromarray(ink).save(buffer, "png")
    return buffer.getvalue()


def files():
    drawings = {}
    for alphabet, (half, characters) in ALPHABETS.items():
        for c in range(1, characters + 1):
            for d in range(1, DRAWINGS + 1):
                name = f"{half}/{alphabet}/character{c:02d}/{len(drawings):04d}_{d:02d}.png"
                drawings[name] = png(len(drawings))
    return drawings


def write_folders(root):
    for name, data in files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def write_zip(path, half):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files().items():
            if half in name:
                archive.writestr(name, data)
        archive.writestr("__MACOSX/images_background/Alpha/character01/._x.png", b"rubbish")


def write_zips(root):
    for half in omniglot.HALVES:
        write_zip(root / f"{half}.zip", half)


LAYOUTS = {
    "folders": write_folders,
    "torchvision and learn2learn": lambda root: write_folders(root / "omniglot-py"),
    "zips": write_zips,
    "one zip": lambda root: write_zip(root / "omniglot_png.zip", "images_"),
    "in a folder omniglot": lambda root: write_zip(root / "omniglot" / "omniglot_png.zip", "images_"),
    "torchvision's in a folder omniglot": lambda root: write_zips(root / "omniglot" / "omniglot-py"),
}


@pytest.fixture
def little(monkeypatch):
    monkeypatch.setattr(omniglot, "HALVES", {"images_background": 6, "images_evaluation": 4})
    monkeypatch.setattr(omniglot, "DRAWINGS", DRAWINGS)
    monkeypatch.setattr(omniglot, "MAML", {"train": 4, "val": 2, "test": 4})
    monkeypatch.setattr(omniglot, "LAKE_VAL", ("Delta",))
    small = {"train": ("Alpha",), "val": ("Beta",), "test": ("Delta",)}
    monkeypatch.setattr(omniglot, "SMALL", small)


def open_omniglot(root, sizes, partition="lake", split_seed=0):
    return Omniglot(root=root, partition=partition, split_seed=split_seed, **sizes)


def characters(data, split):
    return {name.rsplit("/", 1)[0] for name in data.classes(split)}


def pixels(data, split):
    return data.load(split).pixels


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(little, tmp_path, sizes, layout):
    write_folders(tmp_path / "reference")
    LAYOUTS[layout](tmp_path / "root")
    wanted, data = (open_omniglot(tmp_path / name, sizes) for name in ("reference", "root"))
    for split in SPLITS:
        assert data.classes(split) == wanted.classes(split)
        assert torch.equal(pixels(data, split), pixels(wanted, split))


def test_a_copy_elsewhere_is_not_decoded_again(little, tmp_path, sizes, cache):
    for layout in ("folders", "zips"):
        for place in ("here", "there"):
            LAYOUTS[layout](tmp_path / layout / place)
            open_omniglot(tmp_path / layout / place, sizes).load("test")
    assert len([path for path in (cache / "images").iterdir() if path.is_dir()]) == 2


def test_ink_is_white_on_black_and_drawings_keep_their_order(little, tmp_path, sizes):
    write_folders(tmp_path)
    test = pixels(open_omniglot(tmp_path, sizes), "test")
    assert test.shape == (12, 1, 28, 28) and test.dtype == torch.uint8
    assert test[-1, 0, 0, 0] == 255 and test[:, 0, 20:].max() == 0
    ink = test.sum((1, 2, 3), dtype=torch.int64)
    assert (ink.diff() > 0).all()  # each file has more than the one before
    task = open_omniglot(tmp_path, sizes).sample("test", "episodes", 3, torch.Generator())
    assert task.support.x.min() == 0 and task.support.x.max() == 1


def test_partitions(little, tmp_path, sizes):
    write_folders(tmp_path)
    maml, lake, small = (open_omniglot(tmp_path, sizes, partition) for partition in ("maml", "lake", "small"))
    for data, counts in ((maml, (16, 2, 4)), (lake, (16, 2, 4)), (small, (8, 2, 2))):
        assert tuple(len(data.classes(split)) for split in SPLITS) == counts
        assert tuple(data.outputs(split, "batches") for split in SPLITS) == counts
    assert {name.split("/")[0] for name in lake.classes("test")} == {"Gamma"}
    assert {name.split("/")[0] for name in lake.classes("val")} == {"Delta"}
    assert set.union(*(characters(maml, split) for split in SPLITS)) == {
        f"{a}/character{c + 1:02d}" for a, (_, n) in ALPHABETS.items() for c in range(n)
    }


def test_the_split_seed_decides_partition_maml(little, tmp_path, sizes):
    write_folders(tmp_path)
    seen = {open_omniglot(tmp_path, sizes, "maml", seed).classes("test") for seed in (0, 1, 2, 0)}
    assert len(seen) == 3


def test_rotations_are_counter_clockwise(little, tmp_path, sizes):
    write_folders(tmp_path)
    data = open_omniglot(tmp_path, sizes)
    turned = dict(zip(data.classes("train"), pixels(data, "train").view(-1, DRAWINGS, 28, 28), strict=True))
    upright = turned["Alpha/character01/rot000"].numpy()
    for k, degrees in enumerate((0, 90, 180, 270)):
        rotated = turned[f"Alpha/character01/rot{degrees:03d}"].numpy()
        assert np.array_equal(rotated, np.rot90(upright, k, (1, 2)))
    top_left_goes_to = {90: (-1, 0), 180: (-1, -1), 270: (0, -1)}
    for degrees, corner in top_left_goes_to.items():
        assert turned[f"Alpha/character01/rot{degrees:03d}"][-1][corner] > 0


def test_vinyals_takes_what_its_lists_say(little, tmp_path, sizes):
    write_folders(tmp_path)
    lists = tmp_path / "splits" / "vinyals"
    lists.mkdir(parents=True)
    lines = {"train": ["Gamma/character01/rot090", "Alpha/character01/rot000"]}
    lines |= {"val": ["Beta/character01/rot270", "Beta/character02/rot000"]}
    lines |= {"test": ["Gamma/character02/rot180", "Gamma/character03/rot000"]}
    for split, names in lines.items():
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
    data = open_omniglot(tmp_path, sizes, "vinyals")
    for split, names in lines.items():
        assert list(data.classes(split)) == names
    for text, says in (("<html>", "is a web page"), ("Gamma/character99/rot45", "must hold lines .*; got 'Gamma/char")):
        (lists / "test.txt").write_text(text)
        with pytest.raises(DataError, match=rf"test\.txt {says}"):
            open_omniglot(tmp_path, sizes, "vinyals").classes("test")
    (lists / "test.txt").write_text("Gamma/character99/rot000\n")
    with pytest.raises(DataError, match="no character Gamma/character99"):
        open_omniglot(tmp_path, sizes, "vinyals").classes("test")


def test_class_lists_that_are_nowhere(little, tmp_path, sizes, monkeypatch):
    write_folders(tmp_path)
    closed = download.VINYALS["test"]._replace(urls=("http://127.0.0.1:9/test.txt",))
    monkeypatch.setattr(download, "VINYALS", {"test": closed})
    with pytest.raises(DataError, match=r"test\.txt.* not found") as caught:
        open_omniglot(tmp_path, sizes, "vinyals").classes("test")
    assert str(tmp_path / "splits" / "vinyals" / "test.txt") in str(caught.value)


def test_missing_data_says_what_where_and_what_to_do(tmp_path, sizes):
    data = open_omniglot(tmp_path, sizes)  # constructing looks nowhere
    with pytest.raises(DataError) as caught:
        data.prepare()
    message = str(caught.value)
    assert message.startswith("Omniglot not found.")
    for place in ("", "omniglot", "omniglot-py", "omniglot/omniglot-py"):
        assert str(tmp_path / place / "omniglot_png.zip") in message
    assert "metarun-download omniglot --root" in message and "METARUN_DATA" in message


def test_half_of_it_is_enough_for_small_alone(little, tmp_path, sizes):
    write_zip(tmp_path / "images_background.zip", "images_background")
    open_omniglot(tmp_path, sizes, "small").prepare()
    with pytest.raises(DataError, match="images_evaluation"):
        open_omniglot(tmp_path, sizes, "maml").prepare()


def test_incomplete_data_is_refused(little, tmp_path, sizes, monkeypatch):
    write_folders(tmp_path)
    monkeypatch.setattr(omniglot, "HALVES", {"images_background": 964, "images_evaluation": 659})
    with pytest.raises(
        DataError, match=r"must hold the 964 characters of 3 drawings of Omniglot's images_background; got 6 of 3 to 3"
    ):
        open_omniglot(tmp_path, sizes).prepare()


def test_an_unknown_partition_is_refused_with_the_choices(tmp_path, sizes):
    with pytest.raises(ValueError, match="data.partition must be one of maml, vinyals, lake, small; got 'ravi'"):
        open_omniglot(tmp_path, sizes, "ravi")


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    "partition, classes, different",
    [
        ("maml", (4400, 100, 423), (1100, 100, 423)),
        ("vinyals", (4112, 688, 1692), (1028, 172, 423)),
        ("lake", (4 * 807, 157, 659), (807, 157, 659)),
        ("small", (544, 94, 106), (136, 94, 106)),
    ],
)
def test_real_partitions(real_root, sizes, partition, classes, different):
    data = open_omniglot(real_root, sizes, partition)
    data.prepare()
    assert tuple(len(data.classes(split)) for split in SPLITS) == classes
    members = [characters(data, split) for split in SPLITS]
    assert tuple(map(len, members)) == different
    assert len(set.union(*members)) == sum(different)  # no character is in two splits
    assert all(data.load(split).counts.unique().tolist() == [20] for split in SPLITS)
    assert all(len(set(data.classes(split))) == len(data.classes(split)) for split in SPLITS)


@pytest.mark.slow
@pytest.mark.data
def test_the_real_split_of_seed_0_never_changes(real_root, sizes):
    data = open_omniglot(real_root, sizes, "maml")
    digests = [hashlib.sha256("\n".join(data.classes(split)).encode()).hexdigest()[:16] for split in SPLITS]
    assert digests == ["b625a7f7079a02b7", "df7b1b4be891d517", "09e48b791c8d5583"]


@pytest.mark.slow
@pytest.mark.data
def test_real_pixels(real_root, sizes):
    """Against the file itself, resized by Pillow here."""
    data = open_omniglot(real_root, sizes, "small")
    archive = real_root / "omniglot" / "omniglot_png.zip"
    if not archive.exists():
        pytest.skip("the reference reads omniglot_png.zip")
    with zipfile.ZipFile(archive) as files:
        names = sorted(name for name in files.namelist() if "/Sanskrit/character05/" in name)
        images = [Image.open(io.BytesIO(files.read(name))).convert("L") for name in names]
    wanted = np.stack([255 - np.asarray(image.resize((28, 28), Image.Resampling.LANCZOS)) for image in images])
    number = data.classes("test").index("Sanskrit/character05/rot000")
    ours = data.load("test").pixels.view(-1, 20, 28, 28)[number]
    assert np.array_equal(ours.numpy(), wanted)
