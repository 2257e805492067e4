"""Packages that bring their own learners, data or configurations: docs/plugins.md.

An installed package names itself by an entry point, `[project.entry-points."metarun.plugins"] NAME = "PACKAGE"`; its
folder PACKAGE/conf is searched after metarun's own.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

ENTRY_POINTS = "metarun.plugins"


@cache
def plugin_packages() -> tuple[str, ...]:
    """Packages that an installed distribution names, whether they can be imported or not."""
    return tuple(sorted({entry.module for entry in entry_points(group=ENTRY_POINTS)}))


@cache
def plugin_folders() -> dict[str, Path]:
    """The folder `conf` of each of these packages that has one."""
    folders = {package: package_folder(package) for package in plugin_packages()}
    return {package: folder / "conf" for package, folder in folders.items() if folder and (folder / "conf").is_dir()}


def missing_plugins() -> list[str]:
    """Packages that an entry point names and that are not there."""
    return [package for package in plugin_packages() if package_folder(package) is None]


def package_folder(package: str) -> Path | None:
    """Where a package lies; None where it cannot be found. A package of the top level is not imported."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError, AttributeError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None
