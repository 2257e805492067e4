"""The README is true: its commands compose and fit, its choices are the choices there are."""

from __future__ import annotations

import re
import shlex
from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from metarun.conf_files import CONF, GROUPS, names
from metarun.run import build

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.startswith("metarun")
]


def test_it_is_short():
    assert len(README.splitlines()) <= 200
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_composes_and_fits(command):
    overrides = [word for word in command if "=" in word]
    parsed = OverridesParser.create().parse_overrides(overrides)
    swept = [
        [f"{o.key_or_group}={v}" for v in o.sweep_string_iterator()] if o.is_sweep_override() else [o.input_line]
        for o in parsed
    ]
    for cell in product(*swept):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", list(cell), return_hydra_config=True)
        choices = {str(k): str(v) for k, v in cfg.hydra.runtime.choices.items()}
        del cfg.hydra
        build(cfg, choices)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    wanted = set(re.findall(r"make ([a-z-]+)`", README)) | set(re.findall(r"^make ([a-z-]+)", README, re.M))
    assert wanted
    assert {target for target in wanted if not re.search(rf"^[a-z -]*\b{target}\b.*:", makefile, re.M)} == set()


@pytest.mark.parametrize("group", GROUPS)
def test_the_choices_it_lists_are_the_choices(group):
    for name in names(group):
        listed = f"{name.rpartition('/')[0]}/" if group == "experiment" else name  # a table's cells by their folder
        assert f"`{listed}`" in README, f"README.md does not list {group}={listed}"
