"""The cells of `make reproduce-TARGET` are what `metarun` can run."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir

from metarun.experiment.build import build
from metarun.experiment.choices import CONF
from scripts.reproduce.cells import TARGETS, Cell


def distinct(cells: list[Cell]) -> list[Cell]:
    """One of the cells that differ in numbers alone."""
    by_kind = {}
    for cell in cells:
        by_kind.setdefault(tuple(w.partition("=")[0] if w[-1].isdigit() else w for w in cell.overrides), cell)
    return list(by_kind.values())


@pytest.mark.parametrize("target", TARGETS)
def test_a_targets_cells_compose_and_fit(target):
    for cell in distinct(TARGETS[target]):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", [*cell.overrides, "device=cpu"], return_hydra_config=True)
        choices = {str(group): str(name) for group, name in cfg.hydra.runtime.choices.items()}
        del cfg.hydra
        if not cfg.run.evaluate:  # it is built from the saved run's choices
            build(cfg, choices)


@pytest.mark.parametrize("target", TARGETS)
def test_every_cell_has_a_folder_of_its_own(target):
    names = [cell.name.replace(" ", "_") for cell in TARGETS[target]]
    assert len(set(names)) == len(names)
