"""The folder of YAML files: where it is, and what it holds."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

# A wheel carries conf/ inside the package. A checkout, also an editable install, reads the top-level one.
_INSIDE = Path(__file__).parents[1] / "conf"
CONF = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[2] / "conf"

GROUPS = ("data", "algo", "backbone", "device", "optimizer", "tracker", "experiment", "sweep")


def names(group: str) -> list[str]:
    """The choices of a group, e.g. `maml` and `learn2learn/maml`."""
    folder = CONF / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


@cache
def describe(group: str, name: str) -> dict[str, Any]:
    """The group's own keys in a choice's file, with those of the choice it builds on, uninterpolated."""
    text = (CONF / group / f"{name}.yaml").read_text()
    content = yaml.safe_load(text) or {}
    merged: dict[str, Any] = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            base = entry.partition("@")[0]  # `/algo/maml@_here_`, or a neighbour: `maml`
            inside = base.removeprefix(f"/{group}/") if base.startswith("/") else str(Path(name).parent / base)
            merged |= describe(group, inside)
    return merged | (content.get(group) or {} if text.startswith("# @package _global_") else content)
