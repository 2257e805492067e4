"""What is at fault in a refused command, and what there is to choose from."""

from __future__ import annotations

import difflib
import re
from typing import Any

import hydra
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarun import old_names
from metarun.experiment.choices import CONF, GROUPS, names
from metarun.experiment.errors import ConfigError
from metarun.run_folder import DamagedFileError

EXTRAS = {f"hydra/launcher/{name}": name for name in ("joblib", "ray")}  # what of Hydra's comes with which extra
EXTRAS |= {f"hydra/launcher/submitit_{name}": "submitit" for name in ("local", "slurm")}


NO_CHOICE = "Config group override must be a string or a list"  # Hydra's ValueError for GROUP=null


def is_users_fault(error: BaseException) -> bool:
    """Whether it is the user's input that is at fault."""
    faults = HydraException | OmegaConfBaseException | ConfigError | DamagedFileError
    return isinstance(error, faults) or str(error).startswith(NO_CHOICE)


def explain(error: BaseException, arguments: list[str]) -> str:
    """One message for a refused command: what came, and what there is to choose from."""
    text = str(error)
    missing = re.search(r"(?:Could not find|In '[^']*': Could not find) '([\w./-]+)'", text)
    if missing and "/" in missing.group(1):
        group, _, name = missing.group(1).partition("/")
        if (group, name) in old_names.CHOICES:
            return f"{group}={name} is called {group}={old_names.CHOICES[group, name]} now"
        if group in GROUPS:
            hint = _nearest(name, names(group))
            return f"there is no {group}={name}{hint}\nChoices of {group}: {', '.join(names(group))}"
        if extra := EXTRAS.get(missing.group(1)):
            return f"{missing.group(1)} needs more than metarun's own packages: pip install 'metarun[{extra}]'"
    key = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text)
    if key and (new := old_names.renamed_key(key.group(1))):
        return f"{key.group(1)} is called {new} now (docs/old_names.md lists all names that changed)"
    if key:
        keys = _all_keys(arguments)
        near = difflib.get_close_matches(key.group(1), keys, n=4, cutoff=0.5)
        listing = ", ".join(near) or ", ".join(sorted({k.split(".")[0] for k in keys}))
        return f"there is no setting {key.group(1)}. Nearest: {listing}. `metarun --cfg job` prints all"
    if isinstance(error, ConfigCompositionException) and error.__cause__ is not None:
        return f"{text}\n{error.__cause__}"
    return _no_choice(arguments) if text.startswith(NO_CHOICE) else text


def _no_choice(arguments: list[str]) -> str:
    group = next((group for group in GROUPS if f"{group}=null" in arguments), "a group")
    return f"{group} must be one of {', '.join(names(group) if group in GROUPS else GROUPS)}; got null"


def _nearest(name: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.4)
    return f"; did you mean {near[0]}?" if near else ""


def _all_keys(arguments: list[str]) -> list[str]:
    """Dotted keys of the configuration that the command's valid group choices compose."""
    groups = [a for a in arguments if a.partition("=")[0] in GROUPS and "," not in a]
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra.compose("config", overrides=groups)
    except HydraException:
        return list(GROUPS)
    return list(_leaves(OmegaConf.to_container(cfg, resolve=False), ""))


def _leaves(node: Any, prefix: str) -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    found = [prefix] if prefix else []
    for key, value in node.items():
        if key == "_target_":  # a class is chosen by its group
            continue
        found += _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return found
