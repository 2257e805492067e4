"""An installed metarun works from any folder with the conf/ in its wheel; a checkout reads the top-level one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from commands import ROOT, SMALL

from metarun.run_folder import read_result


def call(*words: str | Path, cwd: Path, within: float = 250, **environment: str) -> subprocess.CompletedProcess:
    """A command in a process of its own, that must succeed."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(words, cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=within)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended


def copy_tree(target: Path) -> Path:
    """What the build reads, without what other work left in the checkout."""
    target.mkdir()
    for name in ("metarun", "conf", "hydra_plugins"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, target)
    return target


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built with the build backend at hand: nothing is downloaded."""
    source = copy_tree(tmp_path_factory.mktemp("wheel") / "source")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source.parent, ".", cwd=source)
    (built,) = source.parent.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of commands of an environment that holds the wheel, and sees our dependencies but not our checkout."""
    environment = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # A .pth in a .pth's folder is not read, so the checkout, an editable install there, stays invisible.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = environment / "bin" / "metarun"
    command.write_text(f"#!{environment / 'bin' / 'python'}\nfrom metarun.cli.main import main\nmain()\n")
    command.chmod(0o755)
    return environment / "bin"


def test_the_wheel_carries_conf_and_nothing_of_the_checkout(wheel):
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        (entry_points,) = (name for name in files if name.endswith("entry_points.txt"))
        assert "metarun = metarun.cli.main:main" in archive.read(entry_points).decode()
    inside = {f"metarun/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert inside <= files
    assert "hydra_plugins/metarun_fused.py" in files
    assert not [name for name in files if name.startswith(("tests", "scripts", "outputs", "conf/"))]
    assert {f"metarun/report/page/page.{kind}" for kind in ("html", "css", "js")} <= files  # of metarun-report


def test_an_installed_metarun_runs_from_another_folder_with_the_conf_inside(installed, tmp_path):
    where = call(
        installed / "python", "-c", "import metarun.experiment.choices as c; print(c.__file__, c.CONF)", cwd=tmp_path
    )
    assert str(ROOT) not in where.stdout
    assert where.stdout.split()[1] == str(Path(where.stdout.split()[0]).parents[1] / "conf")
    printed = call(installed / "metarun", "--help", cwd=tmp_path).stdout
    assert "learn2learn/maml" in printed
    launchers = call(installed / "metarun", "--info", "plugins", cwd=tmp_path).stdout
    assert "FusedLauncher" in launchers
    call(installed / "metarun", *SMALL, "run.iterations=2", "hydra.run.dir=run", cwd=tmp_path)
    result = read_result(tmp_path / "run")
    assert (result["status"], result["iterations"], result["commit"]) == ("completed", 2, None)


def test_a_changed_yaml_in_a_checkout_is_seen(tmp_path):
    tree = copy_tree(tmp_path / "checkout")
    algo = tree / "conf" / "algo" / "maml.yaml"
    text = algo.read_text()
    assert "inner_lr: 0.01 " in text
    algo.write_text(text.replace("inner_lr: 0.01 ", "inner_lr: 0.0625 "))
    (tree / "conf" / "algo" / "mine.yaml").write_text("# Ours.\ndefaults:\n  - maml\n  - _self_\ninner_steps: 7\n")
    shown = call(sys.executable, "-m", "metarun", "algo=mine", "--cfg", "job", cwd=tmp_path, PYTHONPATH=str(tree))
    assert "inner_lr: 0.0625" in shown.stdout
    assert "inner_steps: 7" in shown.stdout


# ------------------------------------------------------------------------------------------ by pip, with downloads


def pythons() -> dict[str, str]:
    """Interpreters by version: those that METARUN_PYTHONS names (paths, separated by `:`), else those on the path."""
    named = os.environ.get("METARUN_PYTHONS")
    paths = named.split(":") if named else [f"python3.{minor}" for minor in (11, 12, 13)]
    found = {}
    for path in filter(shutil.which, paths):
        ended = subprocess.run([path, "-c", "import platform; print(platform.python_version())"], capture_output=True)
        if ended.returncode == 0:
            found[ended.stdout.decode().strip()] = path
    return found


@pytest.mark.install
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("minor", [11, 12, 13])
def test_pip_installs_it_into_a_fresh_environment(minor, wheel, tmp_path):
    chosen = next((path for version, path in pythons().items() if version.startswith(f"3.{minor}.")), None)
    if chosen is None:
        pytest.skip(f"there is no Python 3.{minor}")
    call(chosen, "-m", "venv", "env", cwd=tmp_path)
    commands = tmp_path / "env" / "bin"
    call(commands / "python", "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path, within=6000)
    small = ("algo=maml", "data=sinusoid", "run.iterations=200", "tracker=none", "hydra.run.dir=run")
    call(commands / "metarun", *small, cwd=tmp_path)
    assert read_result(tmp_path / "run")["status"] == "completed"
    refused = subprocess.run(
        [commands / "metarun", "algo=learn2learn/maml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert refused.returncode == 2 and "docs/install.md says how" in refused.stderr, refused.stderr
