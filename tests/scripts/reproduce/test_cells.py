"""The cells of `make reproduce-TARGET` are what `metarun` can run."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir

from metarun.experiment.build import build
from metarun.experiment.choices import CONF
from scripts.reproduce.cells import PLACE, TARGETS, Cell


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


def test_what_a_cell_starts_from_is_another_cell_of_the_target():
    for target, cells in TARGETS.items():
        folders = {f"{PLACE}/{target}/{cell.name.replace(' ', '_')}_seed0" for cell in cells}
        for cell in cells:
            sources = {
                word.partition("=")[2] for word in cell.command(0) if word.startswith(("run.evaluate", "run.init"))
            }
            assert sources <= folders
