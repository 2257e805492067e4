"""Where a run is recorded, kept in its folder: a resumed run goes on there, whatever the environment says by then."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metarun.files import write_json


def read_begun(file: Path, keys: Sequence[str]) -> dict[str, str]:
    """The texts that `write_begun` wrote; empty where nobody did, or where they cannot be read."""
    try:
        begun = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: begun[key] for key in keys if isinstance(begun.get(key), str)} if isinstance(begun, dict) else {}


def write_begun(file: Path, kept: Mapping[str, Any]) -> None:
    """Keep how a run is recorded, for when it is resumed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, dict(kept))
