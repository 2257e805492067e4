"""What the files of conf/ say beside their values: the comments at their heads, settings, experiments, figures."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from metarun.experiment.choices import CONF, files_of, names


class Figure(NamedTuple):
    """A published figure of a setting or an experiment."""

    choice: str
    entry: dict[str, Any]


def lead(path: Path) -> str:
    """The comment at the head of a file, but the command that an experiment ends it with."""
    lines = []
    for line in path.read_text().splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        if not line.startswith("# metarun "):
            lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def file_of(group: str, name: str) -> Path:
    return CONF / group / f"{name}.yaml"


def body(path: Path) -> str:
    """A file without `@package` and the comment at its head."""
    lines = path.read_text().splitlines()
    while lines and lines[0].startswith("#"):
        lines.pop(0)
    return "\n".join(lines).strip("\n")


@cache
def settings_of(algo: str) -> tuple[str, ...]:
    """Data sets for which the algorithm has a setting, `conf/setting/DATA/ALGO.yaml`."""
    return tuple(data for data in names("data") if file_of("setting", f"{data}/{algo}").is_file())


@cache
def experiments() -> dict[str, dict[str, str]]:
    """The choices of every experiment, by its name: `data`, `algo` and others that it overrides."""
    return {name: _chosen(name) for name in names("experiment")}


def _chosen(name: str) -> dict[str, str]:
    choices: dict[str, str] = {}
    for path in files_of("experiment", name):
        for entry in (yaml.safe_load(path.read_text()) or {}).get("defaults", []):
            if isinstance(entry, dict):
                choices |= {str(key).removeprefix("override /"): str(value) for key, value in entry.items()}
    return choices


def published(group: str, name: str) -> list[dict[str, Any]]:
    """The published figures of a setting or an experiment: those of the last file that names any."""
    entries: list[dict[str, Any]] = []
    for path in files_of(group, name):
        entries = (yaml.safe_load(path.read_text()) or {}).get("paper", entries)
    return entries or []


def override(group: str, name: str, key: str) -> str | None:
    """What a choice overrides of another group, itself or in what it builds on: `role` of an algorithm."""
    found = None
    for path in files_of(group, name):
        for entry in (yaml.safe_load(path.read_text()) or {}).get("defaults", []):
            if isinstance(entry, dict):
                found = entry.get(f"override /{key}", found)
    return found
