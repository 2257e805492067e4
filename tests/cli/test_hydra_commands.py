"""What Hydra does for a command."""

from __future__ import annotations

import pytest
from commands import metarun
from hydra import version

from metarun.cli.command import Command, started_hydra
from metarun.cli.hydra_commands import run_cells
from metarun.experiment.multirun import multirun


@pytest.mark.slow
def test_cells_are_composed_with_their_own_choices(tmp_path, monkeypatch):
    """`data.root` and `algo.temperature` are unknown to Hydra's defaults, sinusoid and maml."""
    monkeypatch.chdir(tmp_path)
    launched: list[list[str]] = []
    monkeypatch.setattr("metarun.sweeps.grid.launch", lambda _, jobs: launched.extend(job.overrides for job in jobs))
    command = Command.parse(["-m", "algo=protonet", "data=omniglot,miniimagenet", "data.root=/d", "algo.temperature=2"])
    with started_hydra() as hydra:
        config_of = hydra.config_loader.load_sweep_config
        run_cells(hydra, command, lambda _: None)
        assert len(launched) == 2
        for lines, data in zip(launched, ("Omniglot", "MiniImageNet"), strict=True):
            config = config_of(hydra.compose_config("config", command.first_cell, run_mode=None), lines)
            assert config.data._target_.endswith(data) and config.data.root == "/d"
    multirun.clear()
    assert version.getbase() is not None


def test_flags_in_the_middle_and_the_first_cell_are_printed(tmp_path):
    outcome = metarun("algo=maml", "--cfg", "job", "data=omniglot", "-m", "seed=3,4", folder=tmp_path)
    assert outcome.status == 0
    assert "seed: 3" in outcome.out and "inner_lr: 0.4" in outcome.out


def test_the_version_is_metaruns(tmp_path):
    assert metarun("algo=maml", "--version", folder=tmp_path).out.startswith("metarun ")


@pytest.mark.slow
def test_hydras_own_help_is_there(tmp_path):
    assert "--multirun" in metarun("--hydra-help", folder=tmp_path).out
