"""Runs that differ in their seed alone are one cell, called as its record is."""

from __future__ import annotations

from pathlib import Path

import pytest
from recorded import RECORDS

from scripts.reproduce.mtnet.cells import cells, name_of
from scripts.reproduce.mtnet.results import Results, RunResult
from scripts.reproduce.mtnet.subspace import Subspace
from scripts.reproduce.mtnet.sweeps import sweeps
from scripts.results.configuration import composed

SWEEPS = {sweep.name: sweep for sweep in sweeps()}


@pytest.mark.parametrize(
    ("sweep", "index", "name"),
    [
        ("init_maml", 35, "init maml xavier 0.0001"),
        ("learning_rate_mtnet", 0, "learning_rate mtnet 10"),
        ("sensitivity_meta_sgd", 17, "sensitivity meta_sgd 0.0001"),
        ("polynomial_script", 8, "polynomial script order 2"),
        ("sinusoid_mnet_full_5", 0, "sinusoid mnet_full 5-shot"),
    ],
)
def test_a_cell_is_called_by_what_it_varies(sweep, index, name):
    overrides = SWEEPS[sweep].expanded()[index]
    algo = next((word[5:] for word in overrides if word.startswith("algo=")), "")
    algo = algo or next(a for a in ("mnet_full", "mtnet") if a in " ".join(overrides) or a == "mtnet")
    run = RunResult(Path(), {"algo": algo}, composed(overrides))
    assert name_of(SWEEPS[sweep], run) == name
    assert f"mtnet/{name}" in RECORDS


def test_a_cell_has_every_seed(monkeypatch):
    config = composed(["experiment=mtnet/sinusoid/maml_5shot"])

    def of_sweep(_, name):
        seeds = {"sinusoid_maml_5": (2, 0, 1), "sinusoid_maml_20": (0, 1)}.get(name, ())
        return [RunResult(Path(str(seed)), {"algo": "maml", "seed": seed}, config) for seed in seeds]

    monkeypatch.setattr(Results, "of_sweep", of_sweep)
    (cell,) = cells(Results(Path()))
    assert (cell.target, cell.cell, cell.launcher) == ("mtnet", "sinusoid maml 5-shot", "fused")
    assert cell.folders == [Path("0"), Path("1"), Path("2")]


def test_a_cell_of_polynomials_has_the_subspace_of_each_run(monkeypatch):
    config = composed(["experiment=mtnet/polynomial/order1"])
    found = Subspace(1, {"0": 0.25, "2": 0.5, "4": 1.0}, [0.9, 0.06, 0.04, 0.0], 0.1)
    runs = [RunResult(Path(str(seed)), {"algo": "mtnet", "seed": seed}, config) for seed in range(3)]
    monkeypatch.setattr(Results, "of_sweep", lambda _, name: runs if name == "polynomial_ours" else [])
    monkeypatch.setattr("scripts.reproduce.mtnet.cells.subspace", lambda run: found)
    (cell,) = cells(Results(Path()))
    assert cell.cell == "polynomial ours order 1" and f"mtnet/{cell.cell}" in RECORDS
    assert list(cell.others) == [{"directions": 2.0, "mask_1": 0.25, "mask_2": 0.5, "mask_3": 1.0}] * 3
    assert set(cell.others[0]) == {m.metric for m in RECORDS[f"mtnet/{cell.cell}"].measures}
