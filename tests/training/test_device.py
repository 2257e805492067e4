"""The device group: bad values are refused by name, compilation and replicas follow rules."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import toy

from metarun.algos.protonet import ProtoNet
from metarun.training.compilation import warn_uncompiled
from metarun.training.device import COMPILE_FROM, Device, peak_memory_mb

GOOD = {
    "name": "cpu", "threads": None, "precision": "float32", "compile": "auto", "deterministic": True,
    "task_micro_batch": None,
}  # fmt: skip


@pytest.mark.parametrize(("key", "value", "wanted"), [
    ("precision", "float8", "one of float32, float64; got 'float8'"),
    ("compile", "maybe", "true, false or auto; got 'maybe'"),
    ("threads", 0, "an integer of at least 1, or null; got 0"),
    ("name", "abacus", "auto, cpu, cuda or mps; got 'abacus'"),
    ("task_micro_batch", "all", "an integer of at least 1, or null; got 'all'"),
])  # fmt: skip
def test_bad_values_are_refused_by_name(key, value, wanted):
    with pytest.raises(ValueError, match=f"^device.{key} must be {wanted}$"):
        Device(**(GOOD | {key: value}))


def test_a_device_this_machine_lacks_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(
        ValueError, match="device.name must be a device that this machine has; got 'cuda'. device=auto chooses one"
    ):
        Device(**(GOOD | {"name": "cuda"}))


def test_compile_auto_follows_a_rule(monkeypatch):
    monkeypatch.setattr("metarun.training.device.compiler_problem", lambda device: None)
    device = Device(**GOOD)
    tiny, convolutional = toy.maml(), toy.maml(toy.conv4(), outputs=5)
    assert not device.compiles(tiny, COMPILE_FROM["other"] - 1) and device.compiles(tiny, COMPILE_FROM["other"])
    assert device.compiles(convolutional, COMPILE_FROM["convolutional"])
    embedding = ProtoNet(toy.conv4(), 5, torch.nn.functional.cross_entropy)
    assert COMPILE_FROM["embedding"] < COMPILE_FROM["convolutional"]  # nothing is unrolled: more is saved
    assert device.compiles(embedding, COMPILE_FROM["embedding"])
    assert not device.compiles(convolutional, COMPILE_FROM["embedding"])
    assert not device.compiles(embedding, 10**9, fixed_shapes=False)  # batches of many shapes
    assert device.compiles(tiny, COMPILE_FROM["other"] // 2, replicas=11)  # each one more saves a tenth
    assert not device.compiles(tiny, COMPILE_FROM["other"] // 2, replicas=10)
    assert not device.compiles(toy.Recurrent(), 10**9)  # not vectorised
    assert Device(**(GOOD | {"compile": True})).compiles(tiny, 1)
    assert not Device(**(GOOD | {"compile": False})).compiles(tiny, 10**9)


def test_without_a_compiler_auto_goes_on_uncompiled_and_true_is_refused_with_the_cause(monkeypatch, caplog):
    warn_uncompiled.cache_clear()
    monkeypatch.setenv("CXX", "/nonexistent --flag")
    device, tiny = Device(**GOOD), toy.maml()
    assert not device.compiles(tiny, 1) and not caplog.messages  # it would not have been compiled
    assert not device.compiles(tiny, 10**9) and not device.compiles(tiny, 10**9)
    (message,) = caplog.messages
    assert "there is no C++ compiler '/nonexistent --flag', which CXX names" in message
    with pytest.raises(ValueError, match="^device.compile must be false or auto where there is no C.* compiler"):
        Device(**(GOOD | {"compile": True})).compiles(tiny, 1)


def test_how_many_replicas_at_once_follows_a_rule():
    device, convolutional = Device(**GOOD), toy.maml(toy.conv4(), outputs=5)
    assert device.replicas_at_once(toy.maml(), 8) == 8
    assert device.replicas_at_once(convolutional, 8) == 1
    device.torch_device = torch.device("cuda")
    assert device.replicas_at_once(convolutional, 8) == 8
    assert [device.replicas_at_once(convolutional, 8, size) for size in (None, 3, 64)] == [8, 3, 8]


@pytest.mark.slow
def test_freed_memory_is_kept():
    """After a few rounds large tensors take the pages that others left, without a page fault; in its own process."""
    if not sys.platform.startswith("linux"):
        pytest.skip("glibc only")
    script = """
import resource, torch
from metarun.training.device import keep_freed_memory
def faults_of_a_round():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(10_000_000) for _ in range(3)]  # 40 MB each
    del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = [faults_of_a_round() for _ in range(6)]
assert keep_freed_memory()
print(first[-1], [faults_of_a_round() for _ in range(8)][-1])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    mapped_anew, kept = map(int, done.stdout.split())
    assert kept < mapped_anew / 10


def test_precision_is_a_dtype():
    assert Device(**(GOOD | {"precision": "float64"})).dtype == torch.float64


def test_peak_memory_is_in_megabytes():
    assert 50 < peak_memory_mb(torch.device("cpu")) < 100_000
