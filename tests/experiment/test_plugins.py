"""Packages that bring their own learners and configurations: by entry point, without being named."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from commands import SMALL, metarun

from metarun.experiment import plugins
from metarun.experiment.choices import describe, names

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
# The page's files: a line with a path in backticks, then the fenced text.
FILES = re.findall(r"`([\w./-]+)`:\n\n```\w*\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """The page's package as pip leaves it: files on the path, beside what its metadata says."""
    site = tmp_path / "site"
    for name, text in FILES:
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (site / "mylab" / "__init__.py").touch()
    entry = re.search(
        r'\[project.entry-points."metarun.plugins"\]\n(\w+) = "(\w+)"', (site / "pyproject.toml").read_text()
    )
    info = site / "mylab-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mylab\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[metarun.plugins]\n{entry[1]} = {entry[2]}\n")
    monkeypatch.syspath_prepend(str(site))
    forget()
    yield site
    monkeypatch.undo()
    sys.modules.pop("mylab", None)
    sys.modules.pop("mylab.learner", None)
    forget()


def forget() -> None:
    plugins.plugin_packages.cache_clear()
    plugins.plugin_folders.cache_clear()
    describe.cache_clear()


def test_the_template_of_the_page_is_short():
    (code,) = (text for name, text in FILES if name.endswith(".py"))
    assert 5 <= len([line for line in code.splitlines() if line.strip()]) <= 12
    assert len(FILES) == 3


def test_it_is_found_listed_and_run_without_being_named(installed, tmp_path):
    assert plugins.plugin_packages() == ("mylab",)
    assert plugins.plugin_folders() == {"mylab": installed / "mylab" / "conf"}
    assert "shift" in names("algo")
    assert " shift" in metarun("--help", folder=tmp_path).out
    assert "shift" in metarun("algo=mamml", folder=tmp_path).err.partition("Choices of algo: ")[2]
    sizes = ["run.iterations=3" if word.startswith("run.iterations") else word for word in SMALL]
    outcome = metarun(*sizes, "algo=shift", "hydra.run.dir=run", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert metarun("run.resume=run", folder=tmp_path).status == 0
    assert metarun(*sizes, "run.evaluate=run", "algo=shift", "hydra.run.dir=again", folder=tmp_path).status == 0


def test_a_package_that_is_gone_is_one_line(installed, tmp_path):
    (installed / "mylab").rename(installed / "moved")
    outcome = metarun("--cfg", "job", folder=tmp_path)
    assert outcome.status == 0
    assert outcome.err.count("\n") == 1 and "the plug-in mylab" in outcome.err
    assert plugins.missing_plugins() == ["mylab"] and plugins.plugin_folders() == {}


def test_without_plug_ins_there_are_none():
    forget()
    assert plugins.plugin_packages() == ()
    assert plugins.package_folder("no_such_package") is None
    assert plugins.package_folder("metarun") == Path(plugins.__file__).parents[1]
