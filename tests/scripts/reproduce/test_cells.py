"""The cells of `make reproduce-TARGET` are what `metarun` can run."""

from __future__ import annotations

import re

import pytest
from hydra import compose, initialize_config_dir
from recorded import RECORDS

from metarun.experiment.build import build
from metarun.experiment.choices import CONF
from scripts.reproduce.cells import PLACE, TARGETS, Cell
from scripts.reproduce.mtnet.sweeps import sweeps
from scripts.results.configuration import overrides_of


def distinct(cells: list[Cell]) -> list[Cell]:
    """One of the cells that differ in numbers alone."""
    by_kind = {}
    for cell in cells:
        by_kind.setdefault(tuple(w.partition("=")[0] if w[-1].isdigit() else w for w in cell.overrides), cell)
    return list(by_kind.values())


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_targets_cells_compose_and_fit(target):
    for cell in distinct(TARGETS[target]):
        if any(word.startswith("run.evaluate=") for word in cell.overrides):
            continue  # it is composed from the saved run's choices
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", [*cell.command(cell.seeds[0]), "device=cpu"], return_hydra_config=True)
        choices = {str(group): str(name) for group, name in cfg.hydra.runtime.choices.items()}
        del cfg.hydra
        build(cfg, choices)


@pytest.mark.parametrize("target", TARGETS)
def test_every_cell_has_a_folder_of_its_own(target):
    names = [cell.name.replace(" ", "_") for cell in TARGETS[target]]
    assert len(set(names)) == len(names)


def overrides_by_record() -> dict[str, set[str]]:
    """What each record's target runs, by `TARGET/CELL`; of tuned optimizers every rate's."""
    cells = {f"{target}/{cell.name}": set(cell.command(cell.seeds[0])) for target, cs in TARGETS.items() for cell in cs}
    return {name: {word for word in words if not word.startswith("seed=")} for name, words in cells.items()}


@pytest.mark.parametrize("name", [name for name, record in RECORDS.items() if record.target != "mtnet"])
def test_a_target_runs_what_its_records_are_of(name):
    """A cell that is changed after its record was made is a figure that no command makes."""
    record, cells = RECORDS[name], overrides_by_record()
    rate = (record.config or {})["algo"].get("inner_lr") if record.algo == "tuned_optimizer" else None
    assert set(overrides_of(record.command)) == cells[name if rate is None else f"{name} {rate}"]


def test_every_sweep_of_mtnets_paper_runs_what_its_records_are_of():
    run = {frozenset(word for word in cell if not word.startswith("seed=")) for s in sweeps() for cell in s.expanded()}
    recorded = {
        frozenset(overrides_of(r.command)) - {"device.threads=1"} for r in RECORDS.values() if r.target == "mtnet"
    }
    assert same_numbers(recorded) <= same_numbers(run)


def same_numbers(cells: set[frozenset[str]]) -> set[frozenset[str]]:
    return {frozenset(re.sub(r"\d[\d.e-]*", lambda number: f"{float(number[0]):g}", w) for w in cell) for cell in cells}


def test_what_a_cell_starts_from_is_another_cell_of_the_target():
    for target, cells in TARGETS.items():
        folders = {f"{PLACE}/{target}/{cell.name.replace(' ', '_')}_seed0" for cell in cells}
        for cell in cells:
            sources = {
                word.partition("=")[2] for word in cell.command(0) if word.startswith(("run.evaluate", "run.init"))
            }
            assert sources <= folders
