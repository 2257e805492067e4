"""The commands of `make reproduce-mtnet` are what they count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from metarun.experiment.choices import CONF
from scripts.reproduce.mtnet.sweeps import COMMON, Sweep, is_done, sweeps, why_other_sweep
from scripts.results.configuration import composed


@pytest.mark.parametrize("sweep", sweeps(), ids=lambda sweep: sweep.name)
def test_a_command_has_the_cells_it_counts_and_they_compose(sweep):
    cells = sweep.expanded()
    assert len(cells) == len(set(map(tuple, cells))) == sweep.cells
    for cell in (cells[0], cells[-1]):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", list(cell))
        assert cfg.run.meta_batch_size == 4 and cfg.algo.inner_steps == 1
        assert cfg.run.iterations == (20000 if sweep.name.startswith(("init", "sensitivity")) else 60000)


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


def test_a_sweep_of_another_configuration_is_another(tmp_path):
    sweep = Sweep("one", ("algo=maml", "data=sinusoid", "seed=0,1"), 2)
    assert sweep.expanded() == [["algo=maml", "data=sinusoid", "seed=0"], ["algo=maml", "data=sinusoid", "seed=1"]]
    assert why_other_sweep(sweep, tmp_path) is None
    write(tmp_path / "0", "completed")
    (tmp_path / "0" / ".hydra").mkdir()
    config = composed(["algo=maml", "data=sinusoid", "seed=1", *COMMON[:2]])  # cells may lie in any order
    (tmp_path / "0" / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    assert why_other_sweep(sweep, tmp_path) is None
    longer = Sweep("one", (*sweep.overrides, "run.iterations=7"), 2)
    assert why_other_sweep(longer, tmp_path) == "the configuration of cell 0 is another"
    (tmp_path / "0" / "result.json").write_text(json.dumps({"status": "completed"}))
    assert why_other_sweep(sweep, tmp_path) == "the result of cell 0 has format 0, not 1"
