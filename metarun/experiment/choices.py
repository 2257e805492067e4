"""The folders of YAML files: where they are, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from metarun.experiment.plugins import plugin_folders

# A wheel carries conf/ inside the package. A checkout, also an editable install, reads the top-level one.
_INSIDE = Path(__file__).parents[1] / "conf"
CONF = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[2] / "conf"


@dataclass
class OwnFolders:
    """Folders of configuration that the command under way names, beside metarun's own and those of plug-ins.

    Attributes:
        config_dir: of `--config-dir`; None: none.
        searchpath: of `hydra.searchpath`, which Hydra itself adds to what it searches.
    """

    config_dir: Path | None = None
    searchpath: tuple[Path, ...] = ()

    def name(self, config_dir: Path | None = None, searchpath: tuple[Path, ...] = ()) -> None:
        """Forget those of an earlier command of this process."""
        self.config_dir, self.searchpath = config_dir, searchpath
        describe.cache_clear()
        setting_scheduler.cache_clear()


own_folders = OwnFolders()


def added_folders() -> list[tuple[str, Path]]:
    """(who names it, folder) of what Hydra has to search besides CONF, in order."""
    typed = [("command-line", own_folders.config_dir)] if own_folders.config_dir else []
    return [*typed, *((f"plug-in {package}", folder) for package, folder in plugin_folders().items())]


def folders() -> list[Path]:
    """Every folder of configuration, in the order in which a choice is looked for."""
    typed = [own_folders.config_dir] if own_folders.config_dir else []
    return [CONF, *typed, *own_folders.searchpath, *plugin_folders().values()]


def find(group: str, name: str) -> Path | None:
    """The file of a choice; None: there is none."""
    return next((path for folder in folders() if (path := folder / group / f"{name}.yaml").is_file()), None)


CHOSEN = ("data", "algo", "backbone", "device", "optimizer", "scheduler", "tracker")  # what a run is made of
GROUPS = (*CHOSEN, "experiment", "sweep")
SEVERAL = ("tracker",)  # of which a run may have several choices at once, [wandb,tensorboard]: Hydra merges their keys

# The backbone of a role that the data set does not offer, the default in conf/config.yaml. It composes, with any
# `backbone.KEY=VALUE`, because Hydra composes a multirun once without its swept values, for example with the default
# data set; a run with it is refused. It is registered here and not a file, so that `names` and `--help` do not list it.
UNOFFERED = "unoffered"
ConfigStore.instance().store(
    group="backbone", name=UNOFFERED, node=DictConfig({}, flags={"struct": False}), provider="metarun"
)


def names_in(choice: str) -> list[str]:
    """The names in a choice as it is kept: of `maml` that one, of `[wandb,tensorboard]` both."""
    several = choice.startswith("[") and choice.endswith("]")
    return [name.strip() for name in choice[1:-1].split(",") if name.strip()] if several else [choice]


def choice_text(value: Any) -> str:
    """A choice as it is kept, of what is typed: a list of one is that one."""
    if not isinstance(value, list):
        return str(value)
    chosen = list(dict.fromkeys(map(str, value)))
    return chosen[0] if len(chosen) == 1 else f"[{','.join(chosen)}]"


def keep_several(hydra: DictConfig, config: Mapping[str, Any], typed: Mapping[str, Any]) -> None:
    """Add to Hydra's own record of the choices a group of which several are chosen, which Hydra leaves out.

    Args:
        hydra: its part of the configuration; changed.
        config: what is composed.
        typed: values of the command line by key. What a file chose is known by the keys that it brought.
    """
    for group in SEVERAL:
        if group not in hydra.runtime.choices and isinstance(config.get(group), Mapping | DictConfig):
            value = typed.get(group)
            names_of = value if isinstance(value, list) else [str(key) for key in config[group]] or ["none"]
            with read_write(hydra), open_dict(hydra):
                hydra.runtime.choices[group] = choice_text(names_of)


def names(group: str) -> list[str]:
    """The choices of a group, e.g. `maml` and `learn2learn/maml`.

    Those of `scheduler` in a folder are left out: a setting or an experiment chooses them, not a person.
    """
    found = set()
    for folder in folders():
        files = (folder / group).glob("*.yaml") if group == "scheduler" else (folder / group).rglob("*.yaml")
        found |= {str(path.relative_to(folder / group).with_suffix("")) for path in files}
    return sorted(found)


@cache
def setting_scheduler(pair: str) -> str:
    """The choice of `scheduler` that goes with the setting of a pair `DATA/ALGO`.

    Its own file, conf/scheduler/DATA/ALGO.yaml, else that of the setting it builds on, else `constant`. A setting
    cannot hold `override /scheduler: NAME` itself: Hydra refuses overrides in a file whose name it interpolates.
    """
    if find("scheduler", pair):
        return pair
    if find("setting", pair):
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
    path = find(group, name)
    if path is None:
        raise FileNotFoundError(f"there is no {group}={name}")
    text = path.read_text()
    return text, yaml.safe_load(text) or {}


def is_of_published_pair(choices: Mapping[str, str]) -> bool:
    """Whether the published figures of a configuration are of its own data and algorithm.

    They stand in a setting, DATA/ALGO, or in an experiment that chooses both; either can be borrowed for others.

    Args:
        choices: the chosen name of each group.
    """
    chosen = _pair_of_experiment(str(choices.get("experiment", "null")))
    if chosen is None:
        data, _, algo = str(choices.get("setting", "null")).partition("/")
        chosen = {"data": data, "algo": algo} if algo else {}
    return all(choices.get(group) == name for group, name in chosen.items())


def _pair_of_experiment(name: str) -> dict[str, str] | None:
    """The data and the algorithm that an experiment with published figures chooses; None: it has no figures."""
    if find("experiment", name) is None:
        return None
    _, content = _read("experiment", name)
    bases = [pair for base in _bases("experiment", name) if (pair := _pair_of_experiment(base)) is not None]
    if "paper" not in content and not bases:
        return None
    entries = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
    chosen = {key: value for pair in bases for key, value in pair.items()}
    for entry in entries:
        chosen |= {group: entry[key] for group in ("data", "algo") if (key := f"override /{group}") in entry}
    return chosen


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
