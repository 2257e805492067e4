"""A checkpoint is whole or not there, whatever interrupts the writing."""

from __future__ import annotations

import errno
import json
import random
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from metarun import files
from metarun.run_folder import config_digests
from metarun.training import checkpoint

WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3), "progress": torch.tensor(0.5)}
STATE = {"iteration": 7, "generators": {"noise": torch.Generator().manual_seed(3).get_state()}}


def write(folder, iteration, name="last", details=None):
    weights = {key: value + iteration for key, value in WEIGHTS.items()}
    checkpoint.save(folder, name, iteration, weights, STATE | {"iteration": iteration}, details or {})


def assert_whole(folder, iteration, name="last"):
    loaded = checkpoint.load(folder, name)
    assert loaded.details["iteration"] == loaded.state["iteration"] == iteration
    for key, value in WEIGHTS.items():
        assert torch.equal(loaded.weights[key], value + iteration)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_loaded_is_what_was_saved(tmp_path):
    details = {"best": 0.1 + 0.2, "losses": [1 / 3, 2e-45], "compiled": False}
    write(tmp_path, 7, details=details)
    loaded = checkpoint.load(tmp_path, "last")
    assert loaded.details.items() >= details.items()
    assert loaded.weights["w"].dtype == torch.float32
    assert torch.equal(loaded.state["generators"]["noise"], STATE["generators"]["noise"])
    assert_whole(tmp_path, 7)


def test_weights_that_share_memory_or_are_strided_are_saved_as_they_are(tmp_path):
    shared = torch.arange(6.0)
    weights = {"a": shared, "b": shared, "transposed": shared.view(2, 3).T}
    checkpoint.save(tmp_path, "last", 1, weights, {}, {})
    loaded = checkpoint.load(tmp_path, "last").weights
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())


def test_a_checkpoint_replaces_only_its_namesake(tmp_path):
    write(tmp_path, 5, "best")
    for iteration in (5, 6, 7):
        write(tmp_path, iteration)
    assert_whole(tmp_path, 5, "best")
    assert_whole(tmp_path, 7)
    assert len(names(tmp_path)) == 6


@pytest.mark.parametrize("survives", [0, 1, 2])
def test_a_process_killed_between_two_files_leaves_the_previous_checkpoint(survives, tmp_path, monkeypatch):
    write(tmp_path, 1)
    written = []

    class Killed(BaseException):
        pass

    def replace(source, target):
        if len(written) == survives:
            raise Killed
        written.append(target)
        original(source, target)

    original = files.os.replace
    monkeypatch.setattr(files.os, "replace", replace)
    monkeypatch.setattr(files.Path, "unlink", lambda *_, **__: None)  # a killed process removes nothing
    with pytest.raises(Killed):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert_whole(tmp_path, 1)
    write(tmp_path, 3)  # and the next one removes leftovers
    assert_whole(tmp_path, 3)
    assert names(tmp_path) == ["last-00000003.safetensors", "last-00000003.state", "last.json"]


@pytest.mark.parametrize("room", [0, 10, 200, 700])
def test_a_full_disk_leaves_the_previous_checkpoint(room, tmp_path, monkeypatch):
    write(tmp_path, 1)
    opened = files.Path.open

    def full(self, mode="r", **keywords):
        file = opened(self, mode, **keywords)
        return Full(file, room) if mode == "xb" else file

    monkeypatch.setattr(files.Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert_whole(tmp_path, 1)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


class Full:
    """A file on a disk that takes `room` bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.file.write(bytes(data)[: self.room])
        if len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(data)
        return len(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()


def test_a_missing_checkpoint_is_named(tmp_path):
    assert not checkpoint.exists(tmp_path, "best")
    with pytest.raises(FileNotFoundError, match="'best'"):
        checkpoint.load(tmp_path, "best")


def test_nan_in_the_details_does_not_make_bad_json(tmp_path):
    write(tmp_path, 1, details={"best": float("nan")})
    assert json.loads((tmp_path / "last.json").read_text())["best"] is None


def test_a_state_that_would_run_code_is_not_loaded(tmp_path):
    write(tmp_path, 1)
    torch.save({"evil": random.Random}, tmp_path / "last-00000001.state")
    without_digests(tmp_path)
    with pytest.raises(Exception, match="[Ww]eights"):
        checkpoint.load(tmp_path, "last")


# -------------------------------------------------------------------------------------- damaged, or another run's


def without_digests(folder, name="last", **changes):
    """The pointer as an earlier version wrote it."""
    pointer = json.loads((folder / f"{name}.json").read_text())
    kept = {key: value for key, value in pointer.items() if key not in ("sha256", "digest")} | changes
    (folder / f"{name}.json").write_text(json.dumps(kept))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("no such thing")


def missing(path):
    path.unlink()


def folder(path):
    path.unlink()
    path.mkdir()


FILES = ("last.json", "last-00000001.safetensors", "last-00000001.state")


@pytest.mark.parametrize("digests", [True, False], ids=["with digests", "without digests"])
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [flip, cut, empty, text, missing, folder], ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_named_in_one_line(damage, file, digests, tmp_path):
    write(tmp_path / "checkpoint", 1, details=DETAILS)
    if not digests:
        without_digests(tmp_path / "checkpoint")
        if damage is flip:
            pytest.skip("nobody can tell")
    damage(tmp_path / "checkpoint" / file)
    with pytest.raises((checkpoint.CheckpointError, FileNotFoundError)) as error:
        checkpoint.load(tmp_path / "checkpoint", "last")
    assert "\n" not in str(error.value) and (file in str(error.value) or damage in (missing, folder))


DETAILS = {"best": 0.5, "last_metric": 0.5, "train_seconds": 1.0, "compiled": False, "losses": []}
WRONG = {
    "a list": [1],
    "text": "last",
    "no files": {"files": None},
    "another name": {"files": "best-00000001"},
    "a path": {"files": "../last-00000001"},
    "files a number": {"files": 1},
    "iteration text": {"iteration": "1"},
    "iteration negative": {"iteration": -1},
    "iteration true": {"iteration": True},
    "best text": {"best": "0.5"},
    "best a list": {"best": [0.5]},
    "last_metric a mapping": {"last_metric": {}},
    "losses null": {"losses": None},
    "losses text": {"losses": ["a"]},
    "train_seconds null": {"train_seconds": None},
    "compiled a number": {"compiled": 1},
    "digests a list": {"sha256": []},
    "digests of another": {"sha256": {}},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_pointer_of_other_types_is_refused_by_name(wrong, tmp_path):
    write(tmp_path, 1, details=DETAILS)
    if isinstance(wrong, dict):
        without_digests(tmp_path, **wrong)
    else:
        (tmp_path / "last.json").write_text(json.dumps(wrong))
    with pytest.raises(checkpoint.CheckpointError, match=r"last\.json|another run's") as error:
        checkpoint.load(tmp_path, "last")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", DETAILS)
def test_what_a_run_resumes_from_must_be_there(key, tmp_path):
    details = {name: value for name, value in DETAILS.items() if name != key}
    with pytest.raises(checkpoint.CheckpointError, match=f"it has no {key}"):
        checkpoint.require_details(tmp_path, details)
    checkpoint.require_details(tmp_path, DETAILS)


def test_an_edited_pointer_is_refused_and_one_laid_out_anew_is_not(tmp_path):
    write(tmp_path, 1, details={"best": 0.5})
    pointer = json.loads((tmp_path / "last.json").read_text())
    (tmp_path / "last.json").write_text(json.dumps(dict(reversed(pointer.items()))))
    assert_whole(tmp_path, 1)
    (tmp_path / "last.json").write_text(json.dumps(pointer | {"best": 0.4}))
    with pytest.raises(checkpoint.CheckpointError, match="was changed after it was written"):
        checkpoint.load(tmp_path, "last")


def test_an_edited_configuration_is_refused_by_name(tmp_path):
    config = tmp_path / ".hydra" / "config.yaml"
    config.parent.mkdir()
    config.write_text("seed: 0")
    digests = config_digests(tmp_path)
    checkpoint.save(tmp_path / "checkpoint", "last", 1, WEIGHTS, STATE, {}, digests)
    assert checkpoint.is_whole(tmp_path / "checkpoint", "last")
    config.write_text("seed: 1")
    with pytest.raises(checkpoint.CheckpointError, match=r"config\.yaml was changed"):
        checkpoint.load(tmp_path / "checkpoint", "last")
    assert not checkpoint.is_whole(tmp_path / "checkpoint", "last")


def test_another_seeds_files_are_refused(tmp_path):
    for seed in ("a", "b"):
        write(tmp_path / seed, 1)
    write(tmp_path / "b", 1, details={"best": 1.0})
    for suffix in (".safetensors", ".state"):
        changed = {**WEIGHTS, "w": WEIGHTS["w"] + 9}
        checkpoint.save(tmp_path / "b", "last", 1, changed, STATE | {"more": 1}, {})
        shutil.copy(tmp_path / "b" / f"last-00000001{suffix}", tmp_path / "a")
        with pytest.raises(checkpoint.CheckpointError, match=f"{suffix} is damaged, or another run's"):
            checkpoint.load(tmp_path / "a", "last")
        write(tmp_path / "a", 1)


def test_an_earlier_versions_is_accepted_with_one_warning(tmp_path, capsys):
    write(tmp_path, 1)
    without_digests(tmp_path)
    for _ in range(2):
        assert_whole(tmp_path, 1)
    assert capsys.readouterr().err.count("has no digests") == 1


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"w": torch.zeros(2, 3)}, "no tensor progress"),
        (WEIGHTS | {"v": torch.zeros(1)}, "an unknown tensor v"),
        (WEIGHTS | {"w": torch.zeros(3, 2)}, r"another network: w is \[3, 2\] float32, and not \[2, 3\]"),
        (WEIGHTS | {"w": torch.zeros(2, 3).double()}, r"another precision: w is \[2, 3\] float64, and not"),
    ],
)
def test_weights_of_another_network_or_precision_are_refused(weights, words, tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match=words):
        checkpoint.require_weights(tmp_path, weights, WEIGHTS, precision=True)


def test_weights_may_be_of_another_precision_where_it_does_not_matter(tmp_path):
    checkpoint.require_weights(tmp_path, {k: v.double() for k, v in WEIGHTS.items()}, WEIGHTS, precision=False)


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, fused=True),
    "adam, foreach": torch.optim.Adam,
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": torch.optim.RMSprop,
    "adafactor": torch.optim.Adafactor,
    "rprop": torch.optim.Rprop,
}


def stepped(make, *shapes, dtype=torch.float32):
    parameters = [torch.nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in shapes]
    optimizer = make(parameters)
    for parameter in parameters[:1]:  # the others have no gradient yet
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def saved(optimizer, **changes):
    generators = {"tasks/flat": torch.Generator().get_state()}
    state = {
        "iteration": 7,
        "optimizers": {"meta": deepcopy(optimizer.state_dict())},
        "generators": generators,
    } | changes
    return checkpoint.Checkpoint({}, state, {"iteration": 7})


def check(found, optimizer):
    checkpoint.require_state(Path("last.state"), found, {"meta": optimizer}, [("tasks/batches", "tasks/flat")])


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizers_own_state_is_accepted_and_that_of_another_network_is_not(make):
    own = stepped(make, (4, 3), (3,))
    before = [p.clone() for p in own.param_groups[0]["params"]]
    found = saved(own)
    check(found, stepped(make, (4, 3), (3,)))
    check(found, own)
    assert all(torch.equal(a, b) for a, b in zip(before, own.param_groups[0]["params"], strict=True))
    if own.state_dict()["state"].get(0):
        with pytest.raises(checkpoint.CheckpointError, match=r"last\.state is .+ not of this run \(optimizer meta"):
            check(found, stepped(make, (40, 30), (3,)))
        with pytest.raises(checkpoint.CheckpointError, match="optimizer meta"):
            check(found, stepped(make, (4, 3), (3,), dtype=torch.float64))
    with pytest.raises(checkpoint.CheckpointError, match="optimizer meta"):
        check(found, stepped(make, (4, 3)))


def edited(change):
    optimizer = stepped(OPTIMIZERS["adam"], (4, 3))
    found = saved(optimizer)
    change(found.state)
    return found, optimizer


EDITS = {
    "no optimizers": lambda s: s.pop("optimizers"),
    "optimizers a list": lambda s: s.update(optimizers=[]),
    "another optimizer": lambda s: s.update(optimizers={"other": s["optimizers"]["meta"]}),
    "no state": lambda s: s["optimizers"]["meta"].pop("state"),
    "state a list": lambda s: s["optimizers"]["meta"].update(state=[]),
    "a moment is missing": lambda s: s["optimizers"]["meta"]["state"][0].pop("exp_avg"),
    "a moment is a number": lambda s: s["optimizers"]["meta"]["state"][0].update(exp_avg=1.0),
    "a moment is a scalar": lambda s: s["optimizers"]["meta"]["state"][0].update(exp_avg=torch.ones(1, 1)),
    "a step is a vector": lambda s: s["optimizers"]["meta"]["state"][0].update(step=torch.ones(3)),
    "a step is text": lambda s: s["optimizers"]["meta"]["state"][0].update(step="1"),
    "no groups": lambda s: s["optimizers"]["meta"].update(param_groups=[]),
    "groups a mapping": lambda s: s["optimizers"]["meta"].update(param_groups={}),
    "lr text": lambda s: s["optimizers"]["meta"]["param_groups"][0].update(lr="0.1"),
    "initial_lr text": lambda s: s["optimizers"]["meta"]["param_groups"][0].update(initial_lr="0.1"),
    "betas a number": lambda s: s["optimizers"]["meta"]["param_groups"][0].update(betas=0.9),
    "other parameters": lambda s: s["optimizers"]["meta"]["param_groups"][0].update(params=[3]),
    "no generators": lambda s: s.pop("generators"),
    "generators a list": lambda s: s.update(generators=[]),
    "another generator": lambda s: s.update(generators={"x": torch.Generator().get_state()}),
    "a generator of floats": lambda s: s.update(generators={"tasks/flat": torch.ones(5)}),
    "no iteration": lambda s: s.pop("iteration"),
    "another iteration": lambda s: s.update(iteration=8),
}


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS)
def test_a_state_that_no_optimizer_could_step_with_is_refused_by_name(change):
    with pytest.raises(checkpoint.CheckpointError, match=r"^last\.state is damaged or not of this run \(") as error:
        check(*edited(change))
    assert "\n" not in str(error.value)


def test_an_optimizer_that_steps_in_a_way_of_its_own_is_not_stepped():
    optimizer = torch.optim.LBFGS([torch.nn.Parameter(torch.ones(3))])
    check(saved(optimizer), optimizer)
