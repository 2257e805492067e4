"""The version is one, of the build and of records."""

from __future__ import annotations

import re
from importlib.metadata import version

import metarun
from metarun.version import __version__


def test_the_version_is_that_of_the_installed_package():
    assert __version__ == metarun.__version__ == version("metarun")
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
