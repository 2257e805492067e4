"""The folder of YAML files: where it is, and what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

# A wheel carries conf/ inside the package. A checkout, also an editable install, reads the top-level one.
_INSIDE = Path(__file__).parents[1] / "conf"
CONF = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[2] / "conf"

GROUPS = ("data", "algo", "backbone", "device", "optimizer", "scheduler", "tracker", "experiment", "sweep")

# The backbone of a role that the data set does not offer, the default in conf/config.yaml. It composes, with any
# `backbone.KEY=VALUE`, because Hydra composes a multirun once without its swept values, for example with the default
# data set; a run with it is refused. It is registered here and not a file, so that `names` and `--help` do not list it.
UNOFFERED = "unoffered"
ConfigStore.instance().store(
    group="backbone", name=UNOFFERED, node=DictConfig({}, flags={"struct": False}), provider="metarun"
)


def names(group: str) -> list[str]:
    """The choices of a group, e.g. `maml` and `learn2learn/maml`.

    Those of `scheduler` in a folder are left out: a setting or an experiment chooses them, not a person.
    """
    folder = CONF / group
    files = folder.glob("*.yaml") if group == "scheduler" else folder.rglob("*.yaml")
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in files)


@cache
def setting_scheduler(pair: str) -> str:
    """The choice of `scheduler` that goes with the setting of a pair `DATA/ALGO`.

    Its own file, conf/scheduler/DATA/ALGO.yaml, else that of the setting it builds on, else `constant`. A setting
    cannot hold `override /scheduler: NAME` itself: Hydra refuses overrides in a file whose name it interpolates.
    """
    if (CONF / "scheduler" / f"{pair}.yaml").is_file():
        return pair
    if (CONF / "setting" / f"{pair}.yaml").is_file():
        for base in reversed(_bases("setting", pair)):
            if (inherited := setting_scheduler(base)) != "constant":
                return inherited
    return "constant"


# In the defaults list of conf/config.yaml. Everything that composes a configuration imports this module for CONF.
OmegaConf.register_new_resolver(
    "metarun_scheduler", lambda data, algo: setting_scheduler(f"{data}/{algo}"), replace=True
)


@cache
def describe(group: str, name: str) -> dict[str, Any]:
    """The group's own keys in a choice's file, with those of the choice it builds on, uninterpolated."""
    text, content = _read(group, name)
    content.pop("defaults", None)
    merged: dict[str, Any] = {}
    for base in _bases(group, name):
        merged |= describe(group, base)
    return merged | (content.get(group) or {} if text.startswith("# @package _global_") else content)


def files_of(group: str, name: str) -> list[Path]:
    """The file of a choice, after those of the choices it builds on."""
    return [*(path for base in _bases(group, name) for path in files_of(group, base)), CONF / group / f"{name}.yaml"]


def _bases(group: str, name: str) -> list[str]:
    """The choices that a choice's file builds on: `/algo/maml@_here_` in its defaults list, or a neighbour, `maml`."""
    entries = _read(group, name)[1].get("defaults", [])
    paths = [entry.partition("@")[0] for entry in entries if isinstance(entry, str) and entry != "_self_"]
    prefix, neighbours = f"/{group}/", Path(name).parent
    return [path.removeprefix(prefix) if path.startswith("/") else str(neighbours / path) for path in paths]


def _read(group: str, name: str) -> tuple[str, dict[str, Any]]:
    text = (CONF / group / f"{name}.yaml").read_text()
    return text, yaml.safe_load(text) or {}


def roles() -> list[str]:
    """The roles of a backbone, in the order of conf/config.yaml, e.g. `network` and `embedding`."""
    defaults = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    entries = (next(iter(entry.items())) for entry in defaults if isinstance(entry, dict))
    return [key.removeprefix("optional ") for key, name in entries if name == UNOFFERED]


def require_offered_role(choices: Mapping[str, str]) -> None:
    """Refuse an algorithm whose backbone plays a role that the data set does not offer, and name those that it does.

    Args:
        choices: the chosen name of each group.

    Raises:
        ValueError: no backbone is chosen, neither by the data set for this role nor by `backbone=NAME`.
    """
    if choices.get("backbone") != UNOFFERED:
        return
    offers = [f"{role}={choices[role]}" for role in roles() if choices.get(role, UNOFFERED) != UNOFFERED]
    raise ValueError(
        f"algo={choices['algo']} needs a backbone in the role {choices['role']}; data={choices['data']} offers "
        f"{', '.join(offers) or 'none'}. Choose one yourself: backbone=NAME"
    )
