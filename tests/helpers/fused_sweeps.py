"""Multiruns that train together, and the same runs alone."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from commands import SMALL, metarun

from metarun.experiment import session as run
from metarun.fused.replicas import Replicas
from metarun.run_folder import read_result
from metarun.tracking.jsonl import read_metrics
from metarun.training.checkpoint import load

FUSED = ("hydra/launcher=fused", "hydra.sweep.subdir=${hydra.job.num}", "device.precision=float64")


GRID = ("algo=mtnet", "seed=0,1", "algo.inner_lr=0.01,0.1")


CELLS = [("0", "0.01"), ("0", "0.1"), ("1", "0.01"), ("1", "0.1")]


def sweep(*arguments: str, folder: Path, name: str = "sweep"):
    return metarun("-m", *SMALL, *FUSED, *arguments, f"hydra.sweep.dir={name}", folder=folder)


def results(folder: Path) -> list[dict]:
    return [read_result(cell) for cell in sorted(folder.iterdir()) if (cell / "result.json").is_file()]


TIMES = (
    "train_seconds",
    "iterations_per_second",
    "peak_memory_mb",
    "compile_seconds",
    "test_seconds",
    "replicas",
    "overrides",
    "commit",
    "sha256",
)


def assert_same_cell(ours: Path, theirs: Path) -> None:
    """Result, metrics, tested episodes and weights, to rounding; but for what tells of time."""
    a, b = ({k: v for k, v in read_result(f).items() if k not in TIMES} for f in (ours, theirs))
    assert set(a) == set(b)
    for key in a:
        assert_close(a[key], b[key], key)
    rows = [
        [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(f / "metrics.jsonl")]
        for f in (ours, theirs)
    ]
    assert_close(*rows, "metrics.jsonl")
    with np.load(ours / "episodes.npz") as x, np.load(theirs / "episodes.npz") as y:
        np.testing.assert_allclose(x["mse"], y["mse"], rtol=1e-8)
    for name in ("last", "best"):
        x, y = (load(f / "checkpoint", name) for f in (ours, theirs))
        assert x.details["iteration"] == y.details["iteration"]
        for weight in x.weights:
            np.testing.assert_allclose(x.weights[weight], y.weights[weight], rtol=1e-8, atol=1e-10)
        for key, state in x.state["optimizers"]["meta"]["state"].items():
            other = y.state["optimizers"]["meta"]["state"][key]
            np.testing.assert_allclose(state["exp_avg"], other["exp_avg"], rtol=1e-7, atol=1e-10)
        for stream, state in x.state["generators"].items():
            assert np.array_equal(state, y.state["generators"][stream])


def assert_close(a, b, where: str) -> None:
    if isinstance(a, dict) and isinstance(b, dict):
        assert set(a) == set(b), where
        for key in a:
            assert_close(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list) and isinstance(b, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_close(x, y, f"{where}[{i}]")
    elif isinstance(a, float) and isinstance(b, float):
        assert a == pytest.approx(b, rel=1e-7), where
    else:
        assert a == b, where


def spied(monkeypatch) -> list[int]:
    """Replicas in one forward and backward pass, of each program."""
    seen: list[int] = []
    begin = Replicas.__init__

    def spy(self, *arguments):
        begin(self, *arguments)
        seen.append(self.size)

    monkeypatch.setattr(Replicas, "__init__", spy)
    return seen


PICTURES = (
    "data=synthetic",
    "algo=protonet",
    "data.ways=3",
    "data.queries=2",
    "backbone.filters=4",
    "backbone.blocks=2",
)


def stop_at_33(monkeypatch) -> None:
    """SIGTERM in the first save after iteration 33."""
    save, log = run.Experiment.save, run.Experiment.record_step

    def count(self, number, seconds, loss):
        log(self, number, seconds, loss)
        if self.state.iteration == 33:
            self.received_signals.append(signal.SIGTERM)

    monkeypatch.setattr(run.Experiment, "record_step", count)
    monkeypatch.setattr(run.Experiment, "save", save)


def assert_same_cell_without_config(ours: Path, theirs: Path) -> None:
    x, y = (load(f / "checkpoint", "last") for f in (ours, theirs))
    for weight in x.weights:
        np.testing.assert_allclose(x.weights[weight], y.weights[weight], rtol=1e-8, atol=1e-10)
    assert read_result(ours)["mean"] == pytest.approx(read_result(theirs)["mean"], rel=1e-8)
