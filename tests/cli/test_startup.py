"""What a run imports, in which order, and that the collector of garbage rests meanwhile."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import commands
import pytest
from hydra import compose, initialize_config_dir

from metarun.cli.startup import import_for, packages
from metarun.experiment.choices import CONF

PROGRAM = """
import gc, sys
from metarun.cli import main as cli

def watched(cfg):
    before = gc.get_stats()
    imported(cfg)
    assert gc.get_stats() == before, "the collector ran while torch was imported"
    assert gc.isenabled() and gc.get_freeze_count() > 100_000
    frozen = gc.get_freeze_count()
    imported(cfg)  # for the next cell
    assert gc.get_freeze_count() == frozen

imported, cli.import_for = cli.import_for, watched
try:
    cli.main()
finally:
    print("imported", *sys.modules)
"""
UNUSED = {"wandb", "torchvision", "learn2learn", "sklearn", "scipy", "pandas", "plotly", "polars", "IPython"}
UNUSED |= {"matplotlib.pyplot", "torch.utils.tensorboard"}


def imported_for(*overrides: str) -> list[str]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return list(packages(compose("config", list(overrides)).tracker))


def test_wandb_comes_before_torch_and_matplotlib():
    names = imported_for()
    assert names[:2] == ["wandb", "wandb.apis.public"]
    assert names[-1] == "metarun.experiment.run"
    assert imported_for("tracker.wandb.mode=online") == names


@pytest.mark.parametrize("tracker", ["tracker=none", "tracker=jsonl", "tracker.wandb.mode=disabled"])
def test_without_wandb_it_is_not_imported(tracker):
    assert imported_for(tracker) == [name for name in imported_for() if not name.startswith("wandb")]


@pytest.mark.parametrize(("variable", "value"), [("WANDB_MODE", "disabled"), ("WANDB_DISABLED", "true")])
def test_wandb_s_own_variables_count(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    assert "wandb" not in imported_for()
    assert "wandb" in imported_for("tracker.wandb.mode=offline")


@pytest.mark.parametrize("cfg", [{}, {"tracker": None}, {"tracker": {"wandb": None}}])
def test_a_configuration_without_sense_is_left_for_the_run_to_refuse(monkeypatch, cfg):
    monkeypatch.delitem(sys.modules, "metarun.experiment.run", raising=False)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    import_for(cfg)
    assert gc.isenabled() and "metarun.experiment.run" not in sys.modules


@pytest.mark.slow
def test_a_short_run_imports_what_it_uses_while_the_collector_rests(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *commands.SMALL, "run.iterations=2", "hydra.run.dir=run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(commands.ROOT), "MPLCONFIGDIR": str(tmp_path / "fonts")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert "leaked" not in ended.stderr  # Triton's complaint, see `import_for`
    assert "font" not in (tmp_path / "run" / "metarun.log").read_text()  # matplotlib's of its cache, made anew here
    loaded = ended.stdout.partition("imported ")[2].split()
    assert {"torch", "matplotlib.figure"} <= set(loaded)
    assert not UNUSED & set(loaded)
