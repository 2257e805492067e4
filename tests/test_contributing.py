"""CONTRIBUTING.md adds a learner: a copy of the tree gets the files that it shows, and runs its commands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from commands import ROOT, SMALL

from metarun.run_folder import read_result

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"```(?:python|yaml) (\S+)\n(.*?)```", TEXT, re.S))
RUN, TEST = (shlex.split(line) for line in re.findall(r"```bash\n(metarun .*?)```", TEXT, re.S)[0].splitlines())


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The project with the page's files in it."""
    folder = tmp_path_factory.mktemp("tree") / "metarun"
    for name in ("metarun", "conf", "hydra_plugins", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name, text in FILES.items():
        assert not (ROOT / name).exists(), f"{name} is there already; the page needs another example"
        (folder / name).write_text(text)
    return folder


def call(*words, folder):
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)


def test_it_names_three_files():
    assert sorted(name.split("/")[0] for name in FILES) == ["conf", "metarun", "tests"]


@pytest.mark.slow
def test_the_command_trains_it(tree):
    small = [word for word in SMALL if not word.startswith("run.iterations")]
    ended = call(sys.executable, "-m", *RUN, *small, "backbone.filters=8", "hydra.run.dir=run", folder=tree)
    assert ended.returncode == 0, ended.stderr
    result = read_result(tree / "run")
    assert (result["algo"], result["status"], result["iterations"]) == ("proto_maml", "completed", 30)


@pytest.mark.slow
def test_the_laws_and_its_own_test_hold(tree):
    ended = call(sys.executable, *TEST[1:], "-p", "no:xdist", "tests/test_architecture.py", folder=tree)
    assert ended.returncode == 0, ended.stdout
    passed = int(re.search(r"(\d+) passed", ended.stdout).group(1))
    assert passed > 10 and "failed" not in ended.stdout


@pytest.mark.slow
def test_its_own_test_can_fail(tree):
    """With other biases it is no prototypical network."""
    path = tree / "metarun" / "algos" / "proto_maml.py"
    text = path.read_text()
    path.write_text(text.replace("-c.square().sum(1)", "-c.sum(1)"))
    try:
        ended = call(
            sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "tests/algos/test_proto_maml.py", folder=tree
        )
    finally:
        path.write_text(text)
    assert ended.returncode == 1 and "1 failed" in ended.stdout


def test_the_files_are_as_neat_as_ours(tree):
    ruff = shutil.which("ruff", path=os.path.dirname(sys.executable))
    assert ruff
    names = [name for name in FILES if name.endswith(".py")]
    for words in (("check",), ("format", "--check")):
        ended = call(ruff, *words, *names, folder=tree)
        assert ended.returncode == 0, ended.stdout
