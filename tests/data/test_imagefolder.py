"""Images in folders: classes, sizes and counts as they lie there, and errors that name the file."""

import os
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image

from metarun.data.imagefolder import ImageFolder, seeded
from metarun.data.pairs import ImageFolderPairs
from metarun.tasks import DataError

COUNTS = {"cat": 4, "dog": 9, "owl": 5}
COLOURS = {"cat": (250, 0, 0), "dog": (0, 250, 0), "owl": (0, 0, 250)}


@pytest.fixture
def root(tmp_path):
    for split in ("train", "val", "test"):
        for name, count in COUNTS.items():
            folder = tmp_path / "mine" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                suffix = ("png", "JPG", "webp", "bmp")[i % 4]
                Image.new("RGB", (30 + i, 20), COLOURS[name]).save(folder / f"{i}.{suffix}")
            (folder / "notes.txt").write_text("no image")
    return tmp_path / "mine"


def open_folder(root, sizes, size=12, channels=3, **changes):
    arguments = {"root": root, "size": size, "channels": channels, "partition": "folders", **sizes, **changes}
    return ImageFolder(**arguments)


def test_folders_are_classes(root, sizes):
    data = open_folder(root, sizes)
    data.prepare()
    assert data.in_shape() == (3, 12, 12)
    assert data.classes("train") == ("cat", "dog", "owl")
    images = data.load("train")
    assert images.counts.tolist() == [4, 9, 5] and images.pixels.shape == (18, 3, 12, 12)
    batch = data.sample("train", "batches", 20, torch.Generator())
    # Red, green and blue are classes 0, 1 and 2: every image carries its class.
    assert torch.equal(batch.x.mean((-1, -2)).argmax(-1), batch.y)
    task = data.sample("val", "episodes", 50, torch.Generator())
    colour = task.query.x.mean((-1, -2)).argmax(-1).view(50, 2, 2)
    assert torch.equal(colour[..., 0], colour[..., 1]) and (colour[:, 0, 0] != colour[:, 1, 0]).all()


def test_grey_and_another_size(root, sizes):
    data = open_folder(root, sizes, size=7, channels=1)
    assert data.sample("test", "episodes", 2, torch.Generator()).support.x.shape == (2, 2, 1, 7, 7)
    assert data.in_shape() == (1, 7, 7)


def test_a_new_image_is_seen(root, sizes):
    assert len(open_folder(root, sizes).load("val").pixels) == 18
    Image.new("RGB", (9, 9)).save(root / "val" / "cat" / "new.png")
    assert open_folder(root, sizes).load("val").counts.tolist() == [5, 9, 5]


def test_classes_with_too_few_images_are_named(root, sizes):
    with pytest.raises(
        DataError, match=r"the images of each class; got 1 \+ 5 = 6, .*split 'val' .*cat \(4\), owl \(5\)"
    ):
        open_folder(root, sizes | {"queries": 5}).prepare()


def test_an_image_that_cannot_be_read_is_named(root, sizes):
    (root / "val" / "dog" / "broken.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"dog/broken\.png in .*val cannot be read"):
        open_folder(root, sizes).classes("val")


def test_missing_folders_are_named(tmp_path, root, sizes):
    with pytest.raises(DataError, match="split 'train' not found") as caught:
        open_folder(tmp_path / "elsewhere", sizes).classes("train")
    assert str(tmp_path / "elsewhere" / "train") in str(caught.value)
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="no image of the form CLASS/IMAGE"):
        open_folder(tmp_path / "empty", sizes).classes("train")


def said(capsys):
    """What was said, line by line."""
    return [line.removeprefix("metarun: ") for line in capsys.readouterr().err.splitlines()]


def test_what_systems_and_tools_leave_behind_is_no_class(root, sizes, capsys):
    """`.ipynb_checkpoints` beside class folders was a class."""
    expected = open_folder(root, sizes).load("train")
    capsys.readouterr()
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "cat/.thumbnails", "cat/@eaDir"):
        (root / "train" / name).mkdir()
        Image.new("RGB", (9, 9)).save(root / "train" / name / "0-checkpoint.png")
    for name in (".DS_Store", "Thumbs.db", "cat/._0.png", "cat/desktop.ini"):
        (root / "train" / name).write_bytes(b"rubbish")
    images = open_folder(root, sizes).load("train")
    assert images.names == expected.names and torch.equal(images.pixels, expected.pixels)
    assert not any("skipped" in line and "3 files skipped: 3 with the suffix .txt" not in line for line in said(capsys))


def test_what_is_skipped_is_counted_and_said_once(root, sizes, capsys):
    (root / "train" / "cat" / "a.heic").write_bytes(b"x")
    (root / "train" / "cat" / "b.HEIC").write_bytes(b"x")
    (root / "train" / "cat" / "README").write_bytes(b"x")
    Image.new("RGB", (9, 9)).save(root / "train" / "alone.png")
    (root / "train" / "fox" / "2019").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(root / "train" / "fox" / "2019" / "1.png")
    (root / "train" / "elk").mkdir()
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    for _ in range(2):
        assert open_folder(root, sizes).load("train").names == ("cat", "dog", "owl")
    lines = [line for line in said(capsys) if "files skipped: " in line or "no class: " in line]
    assert len(lines) == 2
    assert lines[0].startswith(f"{root / 'train'}: 9 files skipped: 3 with the suffix .txt, 2 with the suffix .heic, ")
    for reason in ("1 without a suffix", "1 in no folder of a class", "1 in a folder inside that of a class"):
        assert reason in lines[0]
    assert "1 no regular file" in lines[0]
    assert lines[1] == f"{root / 'train'}: 2 folders without an image directly inside, no class: elk, fox"


@pytest.mark.parametrize("suffix", ["jfif", "JPE", "tiff", "Webp", "PNG", "dib", "jp2"])
def test_suffixes_of_what_is_read(root, sizes, suffix):
    image = Image.new("RGB", (12, 12), COLOURS["cat"])
    image.save(root / "train" / "cat" / f"more.{suffix}", {"jfif": "JPEG"}.get(suffix))
    assert open_folder(root, sizes).load("train").counts.tolist() == [5, 9, 5]


def test_a_link_that_leads_nowhere_is_refused_by_name(root, sizes):
    (root / "val" / "dog" / "link.png").symlink_to("gone.png")
    with pytest.raises(DataError, match=r"val/dog/link\.png is a link to a file that does not exist"):
        open_folder(root, sizes).prepare()


def test_what_is_in_two_splits_is_named(tmp_path, sizes, capsys):
    rng = np.random.RandomState(0)
    for split, names in (("train", "abc"), ("val", "de"), ("test", "bf")):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                image = Image.fromarray(rng.randint(256, size=(5, 5, 3), dtype=np.uint8))
                image.save(tmp_path / split / name / f"{i}.bmp")
    shutil.copy(tmp_path / "train" / "a" / "3.bmp", tmp_path / "test" / "f" / "copy.bmp")
    open_folder(tmp_path, sizes, size=5).prepare()
    assert [line for line in said(capsys) if line.startswith("warning")] == [
        f"warning: splits 'train' and 'test' of {tmp_path} have 1 class of the same name: b",
        f"warning: splits 'train' and 'test' of {tmp_path} have 1 image in common: a/3.bmp = f/copy.bmp",
    ]


def test_a_word_on_images_that_are_enlarged_or_stretched(tmp_path, sizes, capsys):
    """Whenever the images are loaded, from the cache too."""
    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (32, 32) if i else (40, 36), "red").save(tmp_path / split / name / f"{i}.png")
    enlarged = "6 images of 6 smaller than data.size=84, the smallest of 32 x 32 pixels, are enlarged"
    oblong = "2 images of 6 not square, stretched to a square"
    open_folder(tmp_path, sizes, size=84).load("train")
    assert said(capsys)[-2:] == [f"{tmp_path / 'train'}: {enlarged}", f"{tmp_path / 'train'}: {oblong}"]
    open_folder(tmp_path, sizes, size=32).load("train")
    assert not any("enlarged" in line for line in said(capsys))
    shutil.move(tmp_path, tmp_path.with_name("moved"))
    moved = tmp_path.with_name("moved") / "train"
    open_folder(moved.parent, sizes, size=84).load("train")
    assert said(capsys) == [f"{moved}: {enlarged}", f"{moved}: {oblong}"]


def test_the_first_frame_of_an_animation_is_taken_and_said(root, sizes, capsys):
    frames = [Image.new("RGB", (12, 12), colour) for colour in (COLOURS["cat"], "blue")]
    frames[0].save(root / "train" / "cat" / "moving.gif", save_all=True, append_images=frames[1:])
    images = open_folder(root, sizes).load("train")
    assert images.pixels[4].float().mean((1, 2)).argmax() == 0
    assert any("the first frame is taken of 1 image with several: cat/moving.gif" in line for line in said(capsys))


def test_a_moved_or_copied_folder_has_the_same_entry_and_a_changed_file_another(root, sizes, cache, tmp_path):
    def built():
        return len([path for path in (cache / "images").iterdir() if path.is_dir()])

    expected = open_folder(root, sizes).load("val").pixels
    copy = shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copy)
    assert torch.equal(open_folder(copy, sizes).load("val").pixels, expected) and built() == 1
    shutil.move(root, tmp_path / "elsewhere")
    open_folder(tmp_path / "elsewhere", sizes).load("val")
    assert built() == 1
    changed = copy / "val" / "cat" / "3.bmp"
    before, content = changed.stat(), bytearray(changed.read_bytes())
    content[60] ^= 255
    time.sleep(0.02)
    changed.write_bytes(content)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not torch.equal(open_folder(copy, sizes).load("val").pixels, expected) and built() == 2
    (copy / "val" / "cat" / "more notes.txt").write_text("no image")
    open_folder(copy, sizes).load("val")
    assert built() == 2


def test_only_the_splits_that_are_drawn_from_need_be_there(root, sizes):
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "val")
    open_folder(root, sizes).prepare({"test": {"episodes"}})
    with pytest.raises(DataError, match="split 'train' not found"):
        open_folder(root, sizes).prepare({"train": {"batches"}, "test": {"episodes"}})


def test_small_classes_can_be_left_out(root, sizes, capsys):
    few = sizes | {"queries": 4, "train_queries": 4}
    with pytest.raises(DataError, match=r"hold fewer: cat \(4\)\. Leave them out with data\.min_images=5$"):
        open_folder(root, few).prepare()
    capsys.readouterr()
    data = open_folder(root, few, min_images=5)
    data.prepare()
    assert data.classes("train") == ("dog", "owl") and data.load("train").counts.tolist() == [9, 5]
    all_of_them = open_folder(root, sizes).load("train")
    assert torch.equal(data.load("train").pixels, all_of_them.pixels[4:])
    assert f"{root / 'val'}: 1 class of fewer than data.min_images=5 images left out: cat" in said(capsys)
    with pytest.raises(
        DataError, match=r"data\.min_images must be at most 9, the images of the largest class in .*train"
    ):
        open_folder(root, sizes, min_images=10).load("train")
    with pytest.raises(ValueError, match=r"data\.min_images must be an integer of at least 1; got 0"):
        open_folder(root, sizes, min_images=0)


def test_names_in_no_encoding_are_read_and_do_not_steer_the_terminal(root, sizes, capsys):
    folder = os.fsencode(root / "train") + b"/\xff\x1b[31m"
    os.mkdir(folder)
    for i in range(3):
        Image.new("RGB", (9, 9)).save(os.fsdecode(folder + b"/\xfe%d.png" % i))
    for _ in range(2):
        names = open_folder(root, sizes, min_images=4).load("train").names
    assert names == ("cat", "dog", "owl")
    lines = said(capsys)
    assert any("left out: \ufffd\ufffd[31m" in line for line in lines) and not any("\x1b" in line for line in lines)


def test_transparency_shows_the_background(tmp_path, sizes):
    """Black ink on a transparent ground was black on black."""
    ink = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    ink.paste((0, 0, 0, 255), (0, 0, 4, 8))
    (tmp_path / "test" / "a").mkdir(parents=True)
    ink.save(tmp_path / "test" / "a" / "1.png")
    for background, ground in ((None, [255] * 3), ("black", [0] * 3), ("#102030", [16, 32, 48])):
        changes = {} if background is None else {"background": background}
        pixels = open_folder(tmp_path, sizes, size=8, **changes).load("test").pixels[0]
        assert pixels[:, 4, 1].tolist() == [0, 0, 0] and pixels[:, 4, 6].tolist() == ground
    with pytest.raises(ValueError, match=r"data\.background must be a colour, by name .*; got 'paper'"):
        open_folder(tmp_path, sizes, background="paper")


@pytest.mark.parametrize("size", [0, -3, 8.5, "84"])
def test_a_bad_size_is_named(root, sizes, size):
    with pytest.raises(ValueError, match=f"data.size must be an integer of at least 1; got {size!r}"):
        open_folder(root, sizes, size=size)


def test_bad_channels_are_named(root, sizes):
    with pytest.raises(ValueError, match="data.channels must be 1 .* or 3 .*; got 2"):
        open_folder(root, sizes, channels=2)


def test_a_folder_that_cannot_be_written_is_enough(root, sizes):
    before = sorted(root.rglob("*"))
    open_folder(root, sizes).prepare()
    assert sorted(root.rglob("*")) == before


def test_pixels_are_those_of_the_file(tmp_path, sizes):
    pixels = np.random.RandomState(0).randint(256, size=(6, 5, 5, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        folder = tmp_path / "test" / f"class{i // 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    ours = open_folder(tmp_path, sizes, size=5).load("test").pixels
    assert np.array_equal(ours.numpy(), pixels.transpose(0, 3, 1, 2))


# ------------------------------------------------------------------------------------------ partition seeded

DIVIDED = {"val": ["c1", "c2"], "test": ["c0", "c4"]}  # with split_seed=0


@pytest.fixture
def plain(tmp_path):
    """Ten classes without splits: class i has three images of its own grey, 20 i."""
    for i in range(10):
        (tmp_path / "plain" / f"c{i}").mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (20 + k, 20), (20 * i,) * 3).save(tmp_path / "plain" / f"c{i}" / f"{k}.png")
    return tmp_path / "plain"


def open_seeded(root, sizes, split_seed=0, **changes):
    return open_folder(root, sizes, partition="seeded", split_seed=split_seed, **changes)


def test_plain_folders_are_divided_by_the_seed(plain, sizes):
    data = open_seeded(plain, sizes)
    data.prepare()
    names = {split: data.classes(split) for split in ("train", "val", "test")}
    assert {split: len(of_split) for split, of_split in names.items()} == {"train": 6, "val": 2, "test": 2}
    assert sorted(name for of_split in names.values() for name in of_split) == [f"c{i}" for i in range(10)]
    for split, of_split in names.items():
        grey = data.load(split).pixels[:, 0, 0, 0].tolist()
        assert grey == [20 * int(name[1]) for name in of_split for _ in range(3)]
    again = open_seeded(plain, sizes)
    assert {split: again.classes(split) for split in names} == names
    other = open_seeded(plain, sizes, split_seed=1)
    assert {split: other.classes(split) for split in names} != names


def test_the_division_is_the_same_for_ever(plain, sizes):
    """Runs and weights of one version stay comparable with those of the next."""
    data = open_seeded(plain, sizes)
    assert {split: list(data.classes(split)) for split in ("val", "test")} == DIVIDED
    described = data.describe()
    assert (described["partition"], described["split_seed"], described["split_classes"]) == ("seeded", 0, DIVIDED)
    assert "split_seed" not in open_folder(plain, sizes).describe()


@pytest.mark.parametrize(("number", "counts"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (8, (4, 2, 2)), (100, (60, 20, 20))])
def test_every_split_has_a_fifth_of_the_classes_and_at_least_one(number, counts):
    names = [f"class {i}" for i in range(number)]
    splits = [seeded(names, split, 3) for split in ("train", "val", "test")]
    assert tuple(map(len, splits)) == counts
    assert sorted(name for split in splits for name in split) == sorted(names)


def test_too_few_classes_for_three_splits_are_refused(plain, sizes):
    for i in range(2, 10):
        shutil.rmtree(plain / f"c{i}")
    with pytest.raises(DataError, match="must hold at least 3 folders of classes, .*; got c0, c1"):
        open_seeded(plain, sizes).prepare()


def test_plain_folders_without_a_partition_are_told_of_it(plain, sizes):
    with pytest.raises(DataError, match=r"Of folders CLASS/IMAGE without splits, data\.partition=seeded makes the spl"):
        open_folder(plain, sizes).prepare()
    with pytest.raises(DataError, match="folders of classes not found"):
        open_seeded(plain.parent / "none", sizes).prepare()


def test_what_is_skipped_is_said_once_for_all_splits(plain, sizes, capsys):
    (plain / "notes.txt").write_text("x")
    shutil.copy(plain / "c0" / "0.png", plain / "c1" / "copy.png")
    data = open_seeded(plain, sizes)
    data.prepare()
    lines = said(capsys)
    assert sum("1 file skipped" in line for line in lines) == 1
    same = data.classes("train"), data.classes("val"), data.classes("test")
    apart = not any({"c0", "c1"} <= set(names) for names in same)
    assert any(line.startswith("warning: splits ") and f"of {plain} have 1 image" in line for line in lines) == apart


def test_pairs_are_divided_alike(plain, sizes):
    few = {"pairs": 4, "pair_batch_size": 4, "device": "cpu", "size": 12, "channels": 3}
    data = ImageFolderPairs(root=plain, partition="seeded", split_seed=0, **few)
    assert list(data.classes("val")) == DIVIDED["val"]
    described = data.describe()
    assert (described["pairs"], described["split_classes"]) == (4, {"val": DIVIDED["val"]})
    assert "split_seed" not in ImageFolderPairs(root=plain, partition="folders", **few).describe()
