"""Configurations: what a command composes, what of it is recorded, and where a record's command makes another today."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from metarun import old_names
from metarun.experiment.choices import CONF
from metarun.run_folder import PLACE, leaves
from scripts.results.records import Record

# Groups that change no number: services, published figures, a multirun's own.
ASIDE = ("hydra", "sweep", "tracker", "paper")
# Keys that came after records did, with the value that stands for what was before.
LATER_KEYS: dict[str, Any] = {"run.eval_seed": 0}
_one_at_a_time = Lock()  # Hydra keeps its state in one place for all threads


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of a command, without Hydra's part, interpolations as they are written.

    Raises:
        HydraException: it cannot be composed.
    """
    with _one_at_a_time, initialize_config_dir(str(CONF), job_name="metarun", version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("config", list(overrides)))
    return config


def recorded(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a record keeps of a configuration: all that numbers depend on, interpolations resolved."""
    resolved: Any = OmegaConf.to_container(OmegaConf.create(dict(config)), resolve=True)
    kept = {group: value for group, value in resolved.items() if group not in ASIDE}
    data = {key: value for key, value in kept["data"].items() if not PLACE.fullmatch(f"data.{key}")}
    run = {key: value for key, value in kept["run"].items() if key != "resume"}
    return {**kept, "data": data, "run": run}


def overrides_of(command: str) -> list[str]:
    """The overrides of a command `metarun OVERRIDE ...`."""
    return [word for word in shlex.split(command)[1:] if not word.startswith(("-", "hydra/", "hydra."))]


def composed_as(record: Record) -> dict[str, Any] | None:
    """What a record's command composes today for its first seed, interpolations as they are written.

    Returns:
        None where the command tests a run again (`run.evaluate`): it is composed from that run's folder.

    Raises:
        HydraException: it cannot be composed any more.
    """
    overrides = overrides_of(record.command)
    if any(word.startswith("run.evaluate=") for word in overrides):
        return None
    return composed([*overrides, f"seed={record.runs[0].seed or 0}"])


def differences(record: Record) -> list[str]:
    """`KEY: recorded, today` where the command of a record makes another configuration now.

    Raises:
        HydraException: it cannot be composed any more.
    """
    config = composed_as(record)
    if record.config is None or config is None:
        return []
    today = dict(leaves(recorded(config)))
    then = {**LATER_KEYS, **dict(leaves(old_names.new_config(record.config)))}
    missing = object()
    pairs = {key: (then.get(key, missing), today.get(key, missing)) for key in sorted({*then, *today})}
    return [
        f"{key}: {'missing' if old is missing else old}, {'missing' if new is missing else new}"
        for key, (old, new) in pairs.items()
        if old != new
    ]
