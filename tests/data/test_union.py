"""Several data sets as one: a task is of one member, held-out tasks take turns, and each member has its result."""

import numpy as np
import pytest
import torch
from commands import metarun
from few_shot_files import BIRDS, pixels, write_cub, write_little_omniglot, write_python_folder

from metarun.data import cifar100, cub, omniglot
from metarun.data.cifar_fs import SPLITS
from metarun.data.union import MEMBERS, Union
from metarun.run_folder import read_result
from metarun.tasks import DataError


@pytest.fixture(autouse=True)
def little(monkeypatch):
    monkeypatch.setattr(cifar100, "PER_CLASS", 3)
    monkeypatch.setattr(cub, "CLASSES", 8)
    monkeypatch.setattr(cub, "IMAGES", 8 * 4 + 8)


@pytest.fixture
def root(tmp_path):
    write_python_folder(tmp_path)
    write_cub(tmp_path / "CUB_200_2011")
    return tmp_path


def opened(root, sizes, members=("cifar_fs", "cub"), size=20, channels=3, **changes):
    arguments = {"members": members, "size": size, "channels": channels, "partition": "members", **sizes, **changes}
    return Union(root=root, **arguments)


def is_bird(x):
    """Whether each image is of the birds, which are of one grey: `[...]` of `x [..., 3, H, W]`."""
    return x.flatten(-3).std(-1) < 0.05


def test_members_are_loaded_in_one_size_with_their_own_splits(root, sizes):
    data = opened(root, sizes)
    data.prepare()
    assert data.in_shape() == (3, 20, 20)
    assert data.classes("val") == (
        *(f"cifar_fs/{name}" for name in SPLITS["val"]),
        *(f"cub/{name}" for name in (BIRDS[1], BIRDS[5])),
    )
    images = data.load("val")
    assert images.counts.tolist() == [3] * 16 + [6] * 2 and images.pixels.shape == (60, 3, 20, 20)
    assert data.describe()["members"] == ["cifar_fs", "cub"]


def test_a_training_task_is_of_one_member_and_members_are_equally_likely(root, sizes):
    task = opened(root, sizes).sample("train", "episodes", 400, torch.Generator().manual_seed(0))
    of_support, of_query = is_bird(task.support.x), is_bird(task.query.x)
    assert torch.equal(of_support.all(1), of_support.any(1)) and torch.equal(of_support.all(1), of_query.all(1))
    assert 160 < of_support.all(1).sum() < 240  # 4 of the 68 classes are birds


def test_labels_of_batches_are_of_all_classes(root, sizes):
    data = opened(root, sizes | {"batch_size": 200})
    batch = data.sample("train", "batches", 1, torch.Generator().manual_seed(0))
    names = np.array(data.classes("train"))[batch.y[0].numpy()]
    assert [name.startswith("cub/") for name in names] == is_bird(batch.x)[0].tolist()
    assert data.outputs("train", "batches") == 68


@pytest.mark.parametrize("stream", ["episodes", "episodes_of_classes", "sequences", "pairs"])
def test_held_out_tasks_take_turns_and_are_the_same_again(root, sizes, stream):
    data = opened(root, sizes | {"instances": 3})
    first, again = (data.eval_block("test", stream, 1) for _ in range(2))
    x, same = (first.query.x, again.query.x) if stream.startswith("episodes") else (first.x, again.x)
    assert torch.equal(x, same)
    if stream != "pairs":
        birds = is_bird(x)
        assert birds.all(1).tolist() == birds.any(1).tolist() == [name == "cub" for name in data.groups(40)[20:]]
    drawn = data.sample("test", "episodes", 40, torch.Generator().manual_seed(1))
    assert is_bird(drawn.query.x).all(1).tolist() != [name == "cub" for name in data.groups(40)]


def test_three_members_take_turns_over_blocks(sizes):
    data = Union.__new__(Union)
    data.members = ("a", "b", "c")
    assert data.groups(5) == ("a", "b", "c", "a", "b")


def test_a_member_of_another_size_and_channels_is_fitted_once(root, sizes, cache, monkeypatch):
    halves = {"images_background": 9, "images_evaluation": 3}
    monkeypatch.setattr(omniglot, "HALVES", halves)
    monkeypatch.setattr(omniglot, "MAML", {"train": 4, "val": 4, "test": 4})
    monkeypatch.setattr(omniglot, "DRAWINGS", 3)
    write_little_omniglot(root, halves, 3)

    def images():
        return opened(root, sizes, members=("omniglot", "cub")).load("val")

    loaded = images()
    kept = sorted(path.name for path in (cache / "images").iterdir())
    assert any(name.startswith("union-omniglot-val-") for name in kept)
    assert loaded.names[0].startswith("omniglot/") and loaded.pixels.shape[1:] == (3, 20, 20)
    assert torch.equal(images().pixels, loaded.pixels)
    assert sorted(path.name for path in (cache / "images").iterdir()) == kept


def test_another_size_of_a_member_is_that_of_its_files(root, sizes):
    images = opened(root, sizes, size=32).load("val")
    assert np.array_equal(images.pixels[:3].numpy(), pixels("beaver").transpose(0, 3, 1, 2))


def test_ways_are_at_most_the_classes_of_the_smallest_member(root, sizes):
    with pytest.raises(DataError, match=r"data\.ways must be at most 2, as split 'test' of cub has 2 classes, and"):
        opened(root, sizes | {"ways": 3}).prepare({"test": {"episodes"}})


@pytest.mark.parametrize(
    ("members", "says"),
    [
        (["cub"], "must be at least two of cifar_fs, cub,"),
        (["cub", "cub"], "must be at least two of"),
        (["cub", "faces"], "must be at least two of .*, each once; got .*faces"),
        (["cifar_fs", "fc100"], "must be without both cifar_fs and fc100: test classes of one are training classes"),
        (["miniimagenet", "cub", "tiered_imagenet"], "must be without both miniimagenet and tiered_imagenet"),
    ],
)
def test_other_members_are_refused(tmp_path, sizes, members, says):
    with pytest.raises(ValueError, match=rf"data\.members {says}"):
        opened(tmp_path, sizes, members=members)


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_can_be_made(tmp_path, sizes, name):
    other = "cub" if name != "cub" else "cifar_fs"
    assert opened(tmp_path, sizes, members=(name, other))._member(name).partition


def test_a_run_reports_each_member(root, tmp_path):
    words = (
        "algo=nearest_centroid",
        "data=union",
        f"data.root={root}",
        "data.size=20",
        "data.ways=2",
    )
    outcome = metarun(
        *words, "data.queries=2", "run.eval_tasks=40", "tracker=none", "hydra.run.dir=run", folder=tmp_path
    )
    assert outcome.status == 0, outcome.err
    result = read_result(tmp_path / "run")
    cifar, birds = (result["metrics"][f"accuracy/{name}"] for name in ("cifar_fs", "cub"))
    assert birds["mean"] == 1.0 and cifar["mean"] < 0.9  # birds are of one grey each, the others noise
    assert result["mean"] == pytest.approx((birds["mean"] + cifar["mean"]) / 2)
    assert result["members"] == ["cifar_fs", "cub"]
    assert "accuracy/cub" in outcome.out
