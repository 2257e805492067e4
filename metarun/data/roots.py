"""Where data sets are looked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from metarun.tasks import DataError


def data_roots(root: str | os.PathLike[str] | None) -> list[Path]:
    """Folders to look for data in: `root`, else `METARUN_DATA`, else ./data and the user's data folder."""
    named = root or os.environ.get("METARUN_DATA")
    if named:
        return [Path(named).expanduser()]
    return [Path("data"), Path(platformdirs.user_data_dir("metarun"))]


def missing(what: str, places: Sequence[object], command: str) -> DataError:
    """The error for data that is not there: what was looked for, where, and what to do."""
    looked = "\n".join(f"    {place}" for place in places)
    return DataError(
        f"{what} not found. Looked for:\n{looked}\n"
        f"Download it:\n    {command}\n"
        f"or say where it is: data.root=FOLDER, or the environment variable METARUN_DATA."
    )
