"""What of Weights & Biases is configured: typed, by W&B's own environment variables, or by default, in this order.

A key of `tracker.wandb` is typed where it is not null. A run that is resumed goes on as it was begun where neither says
anything: else what was recorded online would go on offline, or in another project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from metarun.checks import require, require_choice

MODES = ("online", "offline", "disabled")
OTHER_MODES = {"run": "online", "dryrun": "offline"}  # W&B's older words
PROJECT = "metarun"
VARIABLES = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "name": "WANDB_NAME",
    "group": "WANDB_RUN_GROUP",
    "notes": "WANDB_NOTES",
    "dir": "WANDB_DIR",
}
KEPT = ("mode", "project", "entity")  # of a run that is resumed


@dataclass(frozen=True)
class WandbSettings:
    """What W&B gets.

    Attributes:
        mode: online, offline or disabled.
        project, entity, name, group, notes, dir: see conf/tracker/wandb.yaml; None where nobody says anything.
        tags: in addition to the run's own.
        said_by: the environment variable that says the mode; empty where it is typed or by default.
    """

    mode: str
    project: str
    entity: str | None
    name: str | None
    group: str | None
    notes: str | None
    dir: str | None
    tags: tuple[str, ...]
    said_by: str

    def kept(self) -> dict[str, Any]:
        """What a resumed run needs, and what `result.json` says of the record."""
        return {key: value for key, value in asdict(self).items() if key in KEPT}


def wandb_settings(
    typed: Mapping[str, Any], environment: Mapping[str, str], begun: Mapping[str, Any] | None = None
) -> WandbSettings:
    """What is typed wins, then the environment, then how a resumed run was begun, then the default.

    Args:
        typed: keys of `tracker.wandb`; None: not typed.
        environment: variables.
        begun: `WandbSettings.kept` of the run that is resumed.

    Raises:
        ValueError: a key or a variable has a value that makes no sense; the message names it.
    """
    begun = begun or {}
    values: dict[str, Any] = {}
    for key, variable in VARIABLES.items():
        value = typed.get(key)
        require(f"tracker.wandb.{key}", value, value is None or (isinstance(value, str) and value), "null or a text")
        values[key] = value or environment.get(variable) or begun.get(key)
    mode, said_by = wandb_mode(typed.get("mode"), environment, begun.get("mode"))
    values["project"] = values["project"] or PROJECT
    return WandbSettings(mode=mode, tags=tags_of(typed.get("tags"), environment), said_by=said_by, **values)


def wandb_mode(typed: Any, environment: Mapping[str, str], begun: str | None = None) -> tuple[str, str]:
    """The mode, and the environment variable that says it; see `wandb_settings`.

    `wandb agent` runs a command for a sweep of W&B's service, which gets nothing of a run that is offline.

    Raises:
        ValueError: it is none.
    """
    if typed is not None:
        require_choice("tracker.wandb.mode", typed, MODES)
        return typed, ""
    if environment.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on", "y", "t"):
        return "disabled", "WANDB_DISABLED"
    if mode := environment.get("WANDB_MODE"):
        mode = OTHER_MODES.get(mode.lower(), mode.lower())
        require_choice("WANDB_MODE", mode, MODES)
        return mode, "WANDB_MODE"
    if begun in MODES:
        return begun, ""
    return ("online", "WANDB_SWEEP_ID") if environment.get("WANDB_SWEEP_ID") else ("offline", "")


def tags_of(typed: Sequence[str] | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The tags.

    Raises:
        ValueError: what is typed is no list of texts.
    """
    if typed is not None:
        holds = isinstance(typed, list | tuple) and all(isinstance(tag, str) and tag for tag in typed)
        require("tracker.wandb.tags", typed, holds, "null or a list of texts")
        return tuple(typed)
    return tuple(tag.strip() for tag in environment.get("WANDB_TAGS", "").split(",") if tag.strip())


def agents_run_id(environment: Mapping[str, str], several: bool) -> str | None:
    """The id that `wandb agent`, or the user, gives to the run of this process; None: W&B makes one.

    Args:
        environment: variables.
        several: the run is one of a multirun, of which each needs an id of its own.
    """
    return None if several else environment.get("WANDB_RUN_ID") or None
