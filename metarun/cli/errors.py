"""What is at fault in a refused command, and what there is to choose from."""

from __future__ import annotations

import difflib
import re
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarun import old_names
from metarun.cli.command import Command
from metarun.experiment.choices import GROUPS, names
from metarun.experiment.errors import ConfigError
from metarun.experiment.overrides import UsageError, first_choice, key_of, one_line
from metarun.run_folder import DamagedFileError
from metarun.sweeps.plan import CellError

# What of Hydra's launchers is a package of its own.
PACKAGES = {f"hydra/launcher/{name}": f"hydra-{name}-launcher" for name in ("joblib", "ray")}
PACKAGES |= {f"hydra/launcher/submitit_{name}": "hydra-submitit-launcher" for name in ("local", "slurm")}


def is_users_fault(error: BaseException) -> bool:
    """Whether it is the user's input that is at fault."""
    return isinstance(error, HydraException | OmegaConfBaseException | yaml.YAMLError | ConfigError | DamagedFileError)


def explain(error: BaseException, command: Command | None) -> str:
    """One message for a refused command: what came, and what there is to choose from."""
    return "\n".join(map(one_line, _explained(error, command).splitlines()))


def _explained(error: BaseException, command: Command | None) -> str:
    if isinstance(error, CellError) and error.__cause__ is not None:
        return _explained(error.__cause__, command and command.with_settings(error.lines))
    if isinstance(error, UsageError | ConfigError | DamagedFileError):
        return str(error)
    text = str(error)
    if missing := re.search(r"(?:Could not find|In '[^']*': Could not find) '([\w./-]+)'", text):
        if told := _no_such_choice(missing.group(1)):
            return told
    key = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text)
    if key:
        return _no_such_key(key.group(1), command)
    return _in_one_line(error, text)


def _no_such_choice(path: str) -> str | None:
    """What to say of a choice that is not there; None: it is of no group."""
    group, _, name = path.partition("/")
    if (group, name) in old_names.CHOICES:
        return f"{group}={name} is called {group}={old_names.CHOICES[group, name]} now"
    if path in PACKAGES:
        group, _, name = path.rpartition("/")
        return f"{group}={name} needs the package {PACKAGES[path]}, which is not installed"
    if group == "hydra" and "/" in name:
        group, _, name = path.rpartition("/")
        return f"there is no {group}={name}"
    choices = names(group)
    if not name or not choices:
        return None
    return f"there is no {group}={name}{_nearest(name, choices)}\nChoices of {group}: {', '.join(choices)}"


def _no_such_key(key: str, command: Command | None) -> str:
    if new := old_names.renamed_key(key):
        return f"{key} is called {new} now (docs/old_names.md lists all names that changed)"
    keys = _all_keys(command)
    near = difflib.get_close_matches(key, keys, n=4, cutoff=0.5)
    listing = ", ".join(near) or ", ".join(sorted({k.split(".")[0] for k in keys}))
    return f"there is no setting {key}{_with(command)}. Nearest: {listing}. `metarun --cfg job` prints all"


def _with(command: Command | None) -> str:
    """The choices on which it depends which settings there are."""
    chosen = [first_choice(o) for o in command.overrides if key_of(o) in ("algo", "data")] if command else []
    return f" with {' '.join(chosen)}" if chosen else ""


def _in_one_line(error: BaseException, text: str) -> str:
    """Hydra's and OmegaConf's own words, without their class names and their advice for programmers."""
    if twice := re.search(r"Multiple values for ([\w/@.]+)", text):
        return f"{twice.group(1)} is chosen twice"
    if there := re.search(r"An item is already at '([^']+)'", text):
        return f"{there.group(1)} is there already: write it without +"
    cause = error.__cause__
    if merged := re.search(r"Error merging override (.*)", text):
        return f"{merged.group(1)} is refused: {_first_line(cause)}"
    if isinstance(cause, OmegaConfBaseException | yaml.YAMLError) or not text.strip():
        return f"{_first_line(error)}: {_first_line(cause)}" if text.strip() else _first_line(cause)
    if isinstance(error, yaml.YAMLError):
        return f"a file of configuration cannot be read: {' '.join(text.split())}"
    return _first_line(error)


def _first_line(error: BaseException | None) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return re.sub(r"\w+ raised while resolving interpolation: ", "", line)


def _nearest(name: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), choices, n=1, cutoff=0.4)
    return f"; did you mean {near[0]}?" if near else ""


def _all_keys(command: Command | None) -> list[str]:
    """Dotted keys of the configuration that the command's valid choices compose."""
    groups = [first_choice(o) for o in command.overrides if key_of(o) in GROUPS] if command else []
    try:
        started = command or Command.parse([])
        config = started.compose(groups)
    except (HydraException, OmegaConfBaseException):
        return list(GROUPS)
    content: Any = OmegaConf.to_container(config, resolve=False)
    content.pop("hydra")
    return list(_keys(content, ""))


def _keys(node: Any, prefix: str) -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    found = [prefix] if prefix else []
    for key, value in node.items():
        if key == "_target_":  # a class is chosen by its group
            continue
        found += _keys(value, f"{prefix}.{key}" if prefix else str(key))
    return found
