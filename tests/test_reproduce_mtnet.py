"""`make reproduce-mtnet`: its commands are what they count, and its tables say what the folders hold."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from metarun.experiment.choices import CONF

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import reproduce_mtnet as script


@pytest.mark.parametrize("sweep", script.sweeps(), ids=lambda sweep: sweep.name)
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


def write(folder: Path, mean: float | None, status: str = "completed", alpha: float = 0.01) -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(f"algo:\n  inner_lr: {alpha}\nseed: 0\n")
    paper = {"value": 0.49, "ci95": 0.05}
    steps = [{"step": k, "mean": mean, "median": 0.1 * k} for k in range(11)]
    result = {"status": status, "mean": mean, "ci95": 0.02, "paper": paper, "steps": steps}
    (folder / "result.json").write_text(json.dumps(result))


def test_a_sweep_is_done_when_every_cell_has_ended_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "OUT", tmp_path)
    sweep = script.Sweep("one", (), 3)
    write(sweep.folder / "0", 0.5)
    write(sweep.folder / "1", None, "diverged")
    assert not script.is_done(sweep)  # the third has not begun
    write(sweep.folder / "2", None, "interrupted")
    assert not script.is_done(sweep)
    (sweep.folder / "2" / "result.json").write_text('{"status": "completed"}')
    assert script.is_done(sweep)


def test_an_entry_shows_published_beside_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "OUT", tmp_path)
    for number, (mean, alpha) in enumerate([(0.5, 0.01), (0.54, 0.01), (7.0, 1.0)]):
        write(tmp_path / "learning_rate_mtnet" / str(number), mean, alpha=alpha)
    cells = script.pick("learning_rate_mtnet", algo__inner_lr=0.01)
    assert script.entry(cells) == "0.490 ± 0.05 → **0.520** (0.500 ± 0.020, 0.540 ± 0.020)"
    assert script.entry([]) == "not run"
    assert script.entry([{**cells[0], "mean": None}]).split("→")[1].startswith(" **diverged**")


def test_steps_that_one_seed_diverged_at_say_so_and_keep_the_median(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "OUT", tmp_path)
    write(tmp_path / "learning_rate_mtnet" / "0", 0.5)
    write(tmp_path / "learning_rate_mtnet" / "1", None)
    row = script.step_table().splitlines()[-1]
    assert row.startswith("| MT-net | diverges (median 0.100) |")
