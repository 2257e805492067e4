"""The command line: what it offers, and how it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import commands
import pytest
from commands import SMALL, metarun

from metarun.run_folder import read_result


def test_a_multirun_goes_on_past_a_refused_cell_and_exits_1(tmp_path):
    outcome = metarun("-m", *SMALL, "algo=protonet,maml", "hydra.sweep.dir=sweep", folder=tmp_path)
    assert outcome.status == 1
    assert "algo=protonet cannot run on data=sinusoid" in outcome.err
    found = {path.parent.name: read_result(path.parent) for path in (tmp_path / "sweep").glob("*/result.json")}
    assert {name: result["status"] for name, result in found.items()} == {"protonet": "failed", "maml": "completed"}
    assert "algo=protonet cannot run on data=sinusoid" in found["protonet"]["error"]


@pytest.mark.slow
def test_a_diverged_cell_does_not_end_a_multirun_which_exits_3(tmp_path):
    grid = ["-m", *SMALL, "algo.inner_lr=1e20,0.01", "hydra.sweep.dir=sweep"]
    assert metarun(*grid, folder=tmp_path).status == 3
    found = {
        path.parent.name: read_result(path.parent)["status"] for path in (tmp_path / "sweep").glob("*/result.json")
    }
    assert found == {"inner_lr=1e+20": "diverged", "inner_lr=0.01": "completed"}


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path):
    commands.small(folder=tmp_path)
    before = (tmp_path / "run" / ".hydra" / "config.yaml").read_text()
    outcome = metarun(*SMALL, "seed=1", "hydra.run.dir=run", folder=tmp_path)
    assert outcome.status == 2
    assert "run.resume=run" in outcome.err
    assert (tmp_path / "run" / ".hydra" / "config.yaml").read_text() == before


@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "multirun"])
def test_the_job_is_called_metarun(flags, tmp_path):
    assert metarun(*flags, *SMALL, "run.iterations=1", folder=tmp_path).status == 0
    written = [path.read_text() for path in tmp_path.rglob("hydra.yaml")]
    assert len(written) == 1
    assert re.search(r"^  job:\n    name: metarun$", written[0], re.M)


def test_cfg_prints_the_configuration_and_runs_nothing(tmp_path):
    outcome = metarun("data=omniglot", "algo=maml", "--cfg", "job", folder=tmp_path)
    assert outcome.status == 0
    assert "_target_: metarun.algos.maml.MAML" in outcome.out
    assert "inner_lr: 0.4" in outcome.out  # of the setting
    assert not list(tmp_path.iterdir())


def test_info_tells_what_was_composed_from_which_file(tmp_path):
    outcome = metarun("data=omniglot", "--info", "defaults", folder=tmp_path)
    assert outcome.status == 0
    assert "setting/omniglot/maml" in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("metarun algo=ma", ["algo=maml"]),
        ("metarun data=sin", ["data=sinusoid", "data=sinusoid_varied"]),
        ("metarun algo.inner_", ["algo.inner_lr=", "algo.inner_steps="]),
    ],
)
def test_the_shell_completes_choices_and_keys(line, wanted, tmp_path, monkeypatch):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    outcome = metarun("-sc", "query=bash", folder=tmp_path)
    assert set(wanted) <= set(outcome.out.split())


def test_shell_completion_installs_for_the_command_metarun(tmp_path):
    assert "complete" in metarun("-sc", "install=bash", folder=tmp_path).out


def test_the_console_script_exits_2_in_a_real_process_and_answers_fast(tmp_path):
    script = Path(sys.executable).parent / "metarun"
    ended = subprocess.run([script, "algo=mamml"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "did you mean maml?" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_help_does_not_wait_for_torch(tmp_path):
    program = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from metarun.cli.main import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(commands.ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
