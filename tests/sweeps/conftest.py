"""A multirun that was not stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweeps import LONGER, sweep


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    assert sweep("-m", *LONGER, folder=folder, sizes=()).status == 0
    return folder / "sweep"
