"""The commands of `make reproduce-mtnet` are what they count."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from metarun.experiment.choices import CONF
from scripts.reproduce.mtnet.sweeps import Sweep, is_done, sweeps


@pytest.mark.parametrize("sweep", sweeps(), ids=lambda sweep: sweep.name)
def test_a_command_has_the_cells_it_counts_and_they_compose(sweep):
    parsed = OverridesParser.create().parse_overrides(list(sweep.overrides))
    values = [
        [f"{o.key_or_group}={v}" for v in o.sweep_string_iterator()] if o.is_sweep_override() else [o.input_line]
        for o in parsed
    ]
    cells = list(product(*values))
    assert len(cells) == sweep.cells
    for cell in (cells[0], cells[-1]):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", list(cell))
        assert cfg.run.meta_batch_size == 4 and cfg.algo.inner_steps == 1
        assert cfg.run.iterations == (20000 if sweep.name.startswith("init") else 60000)


def write(folder: Path, status: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(json.dumps({"format": 1, "status": status}))


def test_a_sweep_is_done_when_every_cell_has_ended_by_itself(tmp_path):
    sweep = Sweep("one", (), 3)
    write(tmp_path / "0", "completed")
    write(tmp_path / "1", "diverged")
    assert not is_done(sweep, tmp_path)  # the third has not begun
    write(tmp_path / "2", "interrupted")
    assert not is_done(sweep, tmp_path)
    write(tmp_path / "2", "completed")
    assert is_done(sweep, tmp_path)
