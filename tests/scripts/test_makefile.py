"""`make` calls the scripts by the names that they have."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess

import pytest
from commands import ROOT

from scripts.reproduce.cells import TARGETS


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize("target", ["benchmark", "reproduce-mtnet", *(f"reproduce-{name}" for name in TARGETS)])
def test_a_target_calls_a_script(target):
    environment = {key: value for key, value in os.environ.items() if key not in ("JOBS", "MAKEFLAGS", "MAKELEVEL")}
    ended = subprocess.run(
        ["make", "-n", target], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    (command,) = re.findall(r"python -m (scripts\..*)", ended.stdout)
    module, *arguments = command.split()
    assert importlib.util.find_spec(module)
    if module == "scripts.reproduce.main":
        assert arguments == [target.removeprefix("reproduce-"), "--jobs", "1"]
