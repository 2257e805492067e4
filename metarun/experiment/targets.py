"""Which classes a configuration may name: `_target_` is code, and a run's folder may be somebody else's.

Classes of metarun and torch.optim are allowed, each only in the place of its kind (no data set as an algorithm), and
those of packages that the user allows: `--allow=PACKAGE`, or the environment variable METARUN_ALLOW. A node is code
nowhere else. A name counts where its class is defined: what a module of ours has imported is not offered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from inspect import isfunction
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import ListConfig

from metarun import old_names
from metarun.checks import require
from metarun.experiment.plugins import plugin_packages

OURS = ("metarun", "torch.optim")
VARIABLE = "METARUN_ALLOW"
HOW = f"a package that --allow or {VARIABLE} lists"

NAME = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"  # of a package, a module or a class

# The place of a node, and the class that it must be one of; `tracker.*` stands for all trackers, which share no base.
PLACES: dict[str, str | None] = {
    "data": "metarun.tasks.TaskSet",
    "algo": "metarun.learner.learner.Learner",
    "backbone": "torch.nn.Module",
    "optimizer": "metarun.training.meta_optimizer.MetaOptimizer",
    "optimizer.optimizer": "torch.optim.Optimizer",
    "scheduler": "torch.optim.lr_scheduler.LRScheduler",
    "tracker.*": None,
}
FACTORIES = ("optimizer.optimizer", "scheduler")  # whose `_partial_` is true: metarun calls them
SPECIAL = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")  # what Hydra's instantiate looks for


def allowed_packages() -> tuple[str, ...]:
    """The packages whose classes a configuration may name: ours, installed plug-ins, and those that the user allows."""
    return (*OURS, *plugin_packages(), *_named(os.environ.get(VARIABLE, "")))


def allow(packages: str) -> None:
    """Allow packages in this process and in those that it starts.

    Args:
        packages: names, comma-separated.

    Raises:
        ValueError: one is no name of a package.
    """
    named = _named(packages)
    for name in named or [packages]:
        require("--allow", name, re.fullmatch(NAME, name) is not None, "the name of a package")
    before = _named(os.environ.get(VARIABLE, ""))
    os.environ[VARIABLE] = ",".join([*before, *(name for name in named if name not in before)])


def _named(packages: str) -> list[str]:
    return [name.strip() for name in packages.split(",") if name.strip()]


def refuse_foreign_targets(config: Mapping[str, Any]) -> None:
    """Refuse a configuration that names code which is not allowed, before any of it is imported.

    Args:
        config: a resolved configuration, plain containers.

    Raises:
        ValueError: a class is not allowed, or not there; the message names the key.
    """
    nodes = list(_nodes(config, ""))
    for prefix, node in nodes:
        _refuse_special_keys(prefix, node)
        if "_target_" in node:
            _require_allowed(f"{prefix}._target_", node["_target_"])
            if place_of(prefix) not in PLACES and _is_ours(_owner(config, prefix)):
                raise ValueError(f"{prefix}._target_ must not be set; got {node['_target_']!r}")
    for prefix, node in nodes:
        if "_target_" in node:
            class_at(prefix, node["_target_"])


def class_at(prefix: str, path: str) -> Any:
    """The class that a node names; inside a user's own class also a function.

    Args:
        prefix: the node's dotted key, e.g. `algo`.
        path: its `_target_`.

    Raises:
        ValueError: it is not allowed, cannot be imported, or is not what its place wants.
    """
    key = f"{prefix}._target_"
    _require_allowed(key, path)
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # a user's own module may raise anything
        raise ValueError(f"{key} must be a class that can be imported; got {path!r} ({error})") from error
    inner = place_of(prefix) not in PLACES
    require(key, path, isinstance(found, type) or (inner and isfunction(found)), "a class")
    _require_allowed(key, f"{found.__module__}.{found.__name__}")  # not what its module has imported, `metarun.x.os`
    if (base := PLACES.get(place_of(prefix))) is not None:
        package, _, kind = base.rpartition(".")
        require(key, path, issubclass(found, getattr(import_module(package), kind)), f"a class of kind {base}")
    return found


def make(prefix: str, node: Any, *args: Any, **kwargs: Any) -> Any:
    """The object that a node stands for, or a factory's partial.

    Args:
        prefix: the node's dotted key.
        node: a node of a checked configuration.
        args, kwargs: what metarun hands to the constructor.

    Raises:
        ValueError: the constructor refuses a value, or cannot make anything of them.
    """
    try:
        return instantiate(node, *args, **kwargs, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, ValueError):
            raise cause from error
        reason = (str(cause).splitlines() or [""])[0]
        key = re.search(r"argument:? '(\w+)'", reason) if isinstance(cause, TypeError) else None
        if key is not None:  # one that the constructor hands on to another, beside its own
            raise ValueError(f"{prefix}.{key[1]} must be {'set' if 'missing' in reason else 'left out'}") from error
        sizes = [f"{prefix}.{key}={value}" for key, value in node.items() if type(value) in (int, ListConfig)]
        named = " and ".join(sizes) or prefix
        raise ValueError(f"{named} cannot be made: {type(cause).__name__}: {reason}") from error


def place_of(prefix: str) -> str:
    """The place of a node in PLACES' words."""
    return "tracker.*" if re.fullmatch(r"tracker\.[^.]+", prefix) else prefix


def _require_allowed(key: str, path: Any) -> None:
    """Require a dotted path in a package that is allowed.

    Raises:
        ValueError: it is not.
    """
    dotted = isinstance(path, str) and "." in path and re.fullmatch(NAME, path) is not None
    require(key, path, dotted, "the dotted path of a class")
    if (new := old_names.new_class_path(path)) != path:
        raise ValueError(f"{key}={path} has moved: it is {new} now")
    allowed = any(path.startswith(f"{package}.") for package in allowed_packages())
    package = path.partition(".")[0]
    require(key, path, allowed, f"of {' or '.join(OURS)}, or of {HOW} (--allow={package} allows this one)")


def _is_ours(path: Any) -> bool:
    return not isinstance(path, str) or any(path.startswith(f"{package}.") for package in OURS)


def _owner(config: Mapping[str, Any], prefix: str) -> Any:
    """The class of the outermost node around a node, which is given what the inner one makes."""
    parts = re.split(r"[.\[]", prefix)
    node = config[parts[0]]
    if parts[0] == "tracker" and isinstance(node, Mapping):
        node = node.get(parts[1])
    return node.get("_target_") if isinstance(node, Mapping) else None


def _refuse_special_keys(prefix: str, node: Mapping[str, Any]) -> None:
    """Of what Hydra's instantiate looks for, only `_target_` and a factory's `_partial_` mean anything to metarun.

    A user's own class may be given nodes with any of them but `_args_`.

    Raises:
        ValueError: there is another one.
    """
    place = place_of(prefix)
    free = {"_partial_"} if place in FACTORIES else set() if place in PLACES else set(SPECIAL) - {"_args_"}
    for name in SPECIAL:
        if name in node and name not in (free if "_target_" in node else ()) and name != "_target_":
            raise ValueError(f"{_dotted(prefix, name)} must not be set; got {node[name]!r}")
    if place in FACTORIES and "_target_" in node:
        require(f"{prefix}._partial_", node.get("_partial_"), node.get("_partial_") is True, "true")


def _nodes(node: Any, prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping of a configuration with its dotted key, also those in lists, from the outside in."""
    if isinstance(node, Mapping):
        yield prefix, node
        for key, value in node.items():
            yield from _nodes(value, _dotted(prefix, str(key)))
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _nodes(value, f"{prefix}[{number}]")


def _dotted(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key
