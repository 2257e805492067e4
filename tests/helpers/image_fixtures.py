"""Caches that belong to the tests alone, and the real data where it is."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(request, session_cache, monkeypatch):
    """A fresh cache folder a test; tests on the real data share one, so that it is decoded once."""
    real = request.node.get_closest_marker("data")
    folder = session_cache if real else request.getfixturevalue("tmp_path") / "the cache"
    monkeypatch.setenv("METARUN_CACHE", str(folder))
    return folder


@pytest.fixture
def real_root(monkeypatch):
    """The folder of the real data sets; METARUN_DATA, else ../shared/data."""
    root = Path(os.environ.get("METARUN_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"no real data: METARUN_DATA is not set and {root} does not exist")
    monkeypatch.delenv("METARUN_DATA", raising=False)
    return root


@pytest.fixture
def sizes():
    """The arguments that all image data sets take, small."""
    return {
        "ways": 2,
        "shots": 1,
        "queries": 2,
        "train_ways": 2,
        "train_queries": 1,
        "batch_size": 5,
        "device": "cpu",
    }
