"""What metarun adds to Hydra's groups, and that other Hydra programs of the environment do not see it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metarun.cli.command import Command

ROOT = Path(__file__).parents[2]
# A package that brings another `hydra/sweeper=optuna`, and a program that uses it.
PLUGIN = """
from hydra.core.config_store import ConfigStore
ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node={"_target_": "theirs"}, provider="theirs")
"""
PROGRAM = """
import hydra
@hydra.main(version_base="1.3", config_path=None)
def main(config): pass
main()
"""


@pytest.fixture
def theirs(tmp_path) -> Path:
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "their_optuna.py").write_text(PLUGIN)
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def target(words: list[str], theirs: Path) -> str:
    ended = subprocess.run(
        [sys.executable, *words, "hydra/sweeper=optuna", "--cfg", "hydra", "-p", "hydra.sweeper"],
        cwd=theirs,
        env={**os.environ, "PYTHONPATH": f"{theirs}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_another_program_has_the_sweeper_that_it_installed(theirs):
    assert "_target_: theirs" in target(["program.py"], theirs)


def test_metarun_has_its_own_beside_it(theirs):
    assert "_target_: hydra_plugins.metarun_optuna.OptunaSweeper" in target(["-m", "metarun"], theirs)


def test_another_program_does_not_know_metaruns_launcher(theirs):
    ended = subprocess.run(
        [sys.executable, "program.py", "hydra/launcher=fused"],
        cwd=theirs,
        env={**os.environ, "PYTHONPATH": f"{theirs}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == 1 and "Could not find 'hydra/launcher/fused'" in ended.stderr


def test_metaruns_choices_are_composed_with_their_types():
    config = Command.parse(["hydra/launcher=fused", "hydra.launcher.max_replicas=8"]).compose()
    assert config.hydra.launcher.max_replicas == 8
    assert config.hydra.sweeper._target_.endswith("GridSweeper")
