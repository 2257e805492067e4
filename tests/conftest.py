"""Shared set-up: one thread, so that tests side by side do not slow each other, and the real data where it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


pytest_plugins = ["learner_fixtures"]

LONGEST = ("test_launchers.py", "test_session.py", "test_launcher.py")  # minutes each


def pytest_configure() -> None:
    os.environ["METARUN_ALLOW"] = "tests,trouble"  # whose classes tests name in configurations
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest modules come first: one that began last would be waited for with all other processes idle."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets; skips where there is none."""
    for place in (os.environ.get("METARUN_DATA"), ROOT.parent / "shared" / "data"):
        if place and (Path(place) / "omniglot").is_dir():
            return Path(place)
    pytest.skip("no real data: METARUN_DATA is not set and ../shared/data does not exist")
