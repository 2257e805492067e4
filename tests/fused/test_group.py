"""A program that is resumed is the one that was begun: digit for digit, wherever its process was killed."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import SMALL
from fused_sweeps import TIMES
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from metarun.experiment.cell import RunSpec
from metarun.experiment.choices import CONF
from metarun.fused.group import FILE, places_in, read_group
from metarun.fused.launcher import Sizes, run_all
from metarun.run_folder import CONFIG, HYDRA, OVERRIDES, can_resume, read_result, status_of
from metarun.tracking.jsonl import read_metrics
from metarun.training.checkpoint import load

COMMON = (
    *(*SMALL, "algo=maml", "run.iterations=6", "run.validate_every=2", "run.log_every=4", "run.eval_tasks=8"),
    *("run.checkpoint_seconds=0", "device.compile=false", "device=cpu", "backbone.hidden=[8]"),
)
# Two learning rates, two data sets; those of a huge inner rate diverge.
CELLS = [
    (f"optimizer.lr={lr}", f"algo.inner_lr={inner_lr}", f"data.noise={noise}")
    for lr in (0.001, 0.02)
    for inner_lr in (0.01, 1e30)
    for noise in (0, 0.1)
]


class KilledError(BaseException):
    """The process is gone: nothing that follows is done."""


class Killer:
    """Ends the process when so many files have been put in place."""

    def __init__(self, after: int | None) -> None:
        self.after, self.files, self.replace = after, 0, os.replace

    def __call__(self, source: str, target: Path) -> None:
        self.files += 1
        if self.after is not None and self.files > self.after:
            raise KilledError
        self.replace(source, target)


@pytest.fixture(scope="module")
def composed():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return [compose("config", [*COMMON, *cell], return_hydra_config=True) for cell in CELLS]


def swept(composed: list[DictConfig], folder: Path, killed_after: int | None = None) -> int | None:
    """Run the cells that are not done, as a multirun does; returns how many files were put in place, None: killed."""
    specs = []
    for number, whole in enumerate(composed):
        cell = folder / str(number)
        if status_of(cell) in ("completed", "diverged"):
            continue
        cfg = OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])
        cfg.run.resume = str(cell) if can_resume(cell) else None
        cell.mkdir(parents=True, exist_ok=True)
        files = {
            str(CONFIG): cfg,
            str(HYDRA): OmegaConf.masked_copy(whole, ["hydra"]),
            str(OVERRIDES): OmegaConf.create([]),
        }
        texts = {name: OmegaConf.to_yaml(content) for name, content in files.items()}
        specs.append(RunSpec(cfg, dict(whole.hydra.runtime.choices), cell, [], "sweep", texts))
    killer = Killer(killed_after)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", killer)
        patch.setattr(os, "fsync", lambda _: None)  # the machine stays
        patch.setattr("metarun.experiment.run.draw_result", lambda *_, **__: None)
        patch.setattr("metarun.experiment.result.commit", lambda: None)
        try:
            run_all(specs, Sizes(64, "auto"))
        except KilledError:
            return None
    return killer.files


@pytest.fixture(scope="module")
def unbroken(composed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, swept(composed, folder)


def digits(folder: Path) -> dict[str, dict]:
    """All that each cell left, but for what tells of time."""
    cells = {}
    for cell in sorted(path.parent for path in folder.glob("*/result.json")):
        left = {key: value for key, value in read_result(cell).items() if key not in (*TIMES, "versions", "traceback")}
        left["replicas"] = read_result(cell)["replicas"]
        left["metrics.jsonl"] = [
            {key: value for key, value in row.items() if not key.startswith("time/")}
            for row in read_metrics(cell / "metrics.jsonl")
        ]
        if left["status"] == "completed":
            with np.load(cell / "episodes.npz") as episodes:
                left["episodes.npz"] = {name: episodes[name].tolist() for name in episodes.files}
            for name in ("best", "last"):
                saved = load(cell / "checkpoint", name)
                left[name] = json.dumps(listed((saved.weights, saved.state)), default=str, sort_keys=True)
        cells[cell.name] = left
    return cells


def listed(value):
    if isinstance(value, torch.Tensor):
        return value.double().tolist()
    if isinstance(value, dict):
        return {str(key): listed(entry) for key, entry in value.items()}
    return [listed(entry) for entry in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_program_ends_as_the_unbroken_one_digit_for_digit(seed, unbroken, composed, tmp_path):
    folder, files = unbroken
    moments = random.Random(seed)
    for _ in range(2):  # and once more while it is resumed, unless it was near its end
        swept(composed, tmp_path, killed_after=moments.randrange(10, files - 5))
    swept(composed, tmp_path)
    ours, theirs = digits(tmp_path), digits(folder)
    assert set(ours) == set(theirs) and len(ours) == len(CELLS)
    assert {cell["status"] for cell in ours.values()} == {"completed", "diverged"}
    for name in theirs:
        for key in theirs[name]:
            assert ours[name][key] == theirs[name][key], f"{name}: {key}"


def test_a_group_is_known_from_any_of_its_runs_also_where_it_was_moved(unbroken, tmp_path):
    folder, _ = unbroken
    shutil.copytree(folder, tmp_path / "moved")
    cells = [tmp_path / "moved" / str(number) for number in range(len(CELLS))]
    for cell in cells[3:]:  # the process was killed before it had told all
        (cell / FILE).unlink()
    places = places_in(cells[2:])
    assert [places[cell.resolve()][1] for cell in cells[2:]] == list(range(2, len(CELLS)))
    assert places_in(cells[3:]) == {}


def test_a_group_that_cannot_be_read_is_none(tmp_path):
    assert read_group(tmp_path) is None
    (tmp_path / FILE).parent.mkdir()
    texts = ["{", "[]", "{}", '{"members": ["."], "rates": [{}, {}], "data": [0]}']
    for text in (*texts, '{"members": ["."], "rates": [1], "data": [0]}', '{"members": [], "rates": [], "data": []}'):
        (tmp_path / FILE).write_text(text)
        assert read_group(tmp_path) is None
