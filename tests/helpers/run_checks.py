"""Two runs that left the same; runs that are stopped and resumed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from commands import SMALL, Outcome, metarun, start

from metarun.run_folder import read_result
from metarun.training import checkpoint

# A learner too small to be slow, saved after every iteration: a process can be killed anywhere.
ALWAYS_SAVED = (*SMALL, "run.checkpoint_seconds=0", "backbone.hidden=[8]", "run.iterations=250", "run.log_every=7")


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoint", name).weights


def assert_same_weights(a: Path, b: Path, name: str = "last") -> None:
    first, second = weights(a, name), weights(b, name)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def numbers(folder: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what a clock decides."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def assert_same_run(a: Path, b: Path) -> None:
    """Everything that a run leaves and no clock decides is the same to the last bit."""
    assert_same_weights(a, b)
    assert_same_weights(a, b, "best")
    assert numbers(a) == numbers(b)
    timed = {"train_seconds", "compile_seconds", "test_seconds", "iterations_per_second", "peak_memory_mb"}
    timed |= {"overrides", "commit", "sha256"}  # of the configuration too, which may differ in what changes no number
    first, second = (
        {key: value for key, value in read_result(folder).items() if key not in timed} for folder in (a, b)
    )
    assert first == second
    with np.load(a / "episodes.npz") as one, np.load(b / "episodes.npz") as other:
        assert set(one) == set(other)
        assert all(np.array_equal(one[key], other[key]) for key in one)


def wait_for(folder: Path, iteration: int, process) -> None:
    """Until the process has saved that iteration."""
    pointer = folder / "checkpoint" / "last.json"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if pointer.is_file() and json.loads(pointer.read_text())["iteration"] >= iteration:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    raise TimeoutError


def stop(folder: Path, iteration: int, signum: int, *arguments: str, **environment: str) -> tuple[int, str]:
    """Start a process, send it a signal at (or soon after) an iteration; its exit status and errors."""
    process = start(*arguments, folder=folder.parent, **environment)
    try:
        wait_for(folder, iteration, process)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, errors


def resume(folder: Path, *arguments: str) -> Outcome:
    return metarun(f"run.resume={folder}", *arguments, folder=folder.parent)
