"""Hydra's launchers run the cells of a sweep in other processes; what comes of it is the same, whatever happens there.

Real processes: joblib's and submitit's own, a Ray of this machine. There is no Slurm here: `fake_slurm` stands in for
its commands. So it is proven that submitit's own code hands `sbatch` a script that says what was configured, that this
script runs our cells and their results find the way back, and that a cell that is preempted and requeued goes on. Not
proven: that a real cluster grants and enforces those resources, or has the files and packages on its nodes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import fake_slurm
import pytest
from commands import ROOT, SMALL, metarun
from trouble import AT, CELL

from metarun.run_folder import read_result

HELPERS = Path(__file__).parents[1] / "helpers"
LAUNCHERS = {
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit_local": ("hydra/launcher=submitit_local",),
    "ray": ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"),
    "submitit_slurm": ("hydra/launcher=submitit_slurm",),
}
# Two complete, one diverges, one raises in training.
GRID = (*CELL, "algo=maml,mtnet", "+data.raises=mtnet/1e+20/0")
RATES = "algo.inner_lr=0.01,1e20"
STATUSES = {
    "maml_inner_lr=0.01": "completed",
    "maml_inner_lr=1e+20": "diverged",
    "mtnet_inner_lr=0.01": "completed",
    "mtnet_inner_lr=1e+20": "failed",
}
# By joblib two more: one dies while the first is under way and others have not begun, one is refused.
FATAL = ("algo.inner_lr=0.01,1e20,0.5", "+data.dies=maml/0.5/0", "+data.refuses=mtnet/0.5/0")


class Swept(NamedTuple):
    """A sweep that has ended: the command's exit status and words, the sweep's folder, what it left running."""

    status: int
    out: str
    err: str
    folder: Path
    left: list[int]


# ------------------------------------------------------------------------------------------------- processes


def begin(*arguments: str, folder: Path, **environment: str) -> subprocess.Popen:
    """The command as a process that leads a session, as in a terminal of its own."""
    names = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(HELPERS))), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "metarun", *arguments],
        cwd=folder,
        env={**os.environ, **names, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen, folder: Path, within: float = 200) -> Swept:
    """Wait for a sweep in `folder`/sweep; whatever it left running is ended."""
    try:
        out, err = process.communicate(timeout=within)
        end = time.monotonic() + 10  # Ray's processes take a moment
        while members(process.pid) and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        left = members(process.pid)
        for number in left:
            kill(number)
    return Swept(process.returncode, out, err, folder / "sweep", left)


def kill(number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)


def members(session: int) -> list[int]:
    """Processes of a session that are not dead."""
    listing = subprocess.run(["ps", "-A", "-o", "pid=,stat="], capture_output=True, text=True, check=True).stdout
    numbers = [int(line.split()[0]) for line in listing.splitlines() if "Z" not in line.split()[1]]
    return [number for number in numbers if session_of(number) == session]


def session_of(number: int) -> int | None:
    try:
        return os.getsid(number)
    except (ProcessLookupError, PermissionError):
        return None


def sweep(launcher: str, *arguments: str, folder: Path, **environment: str) -> Swept:
    """A sweep by a launcher, to its end; skips where the launcher is not installed."""
    need(launcher)
    command = ("-m", *SMALL, *LAUNCHERS[launcher], *arguments, "hydra.sweep.dir=sweep")
    return ended(begin(*command, folder=folder, **environment), folder)


def need(launcher: str) -> None:
    plugin = launcher.partition("_")[0]
    pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher", reason=f"metarun[{plugin}] is not installed")


def until(happened: Callable[[], object], within: float = 60) -> None:
    end = time.monotonic() + within
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def cells(folder: Path) -> dict[str, dict]:
    """Results by the cell's folder; empty of a cell that has none."""
    found = [path for path in sorted(folder.iterdir()) if (path / ".hydra").is_dir()]
    return {path.name: read_result(path) if (path / "result.json").is_file() else {} for path in found}


def numbers(folder: Path, *names: str) -> dict[str, tuple]:
    """What must not depend on who ran a cell, of all cells or some."""
    keys = ("status", "error", "mean", "ci95", "steps", "validation", "iterations", "seed", "algo")
    return {name: tuple(map(own.get, keys)) for name, own in cells(folder).items() if not names or name in names}


def table(folder: Path, *rates: float) -> list[dict]:
    """The table of `sweep.json`, of some inner learning rates."""
    entries = json.loads((folder / "sweep.json").read_text())["table"]
    return [entry for entry in entries if float(entry["setting"]["algo.inner_lr"]) in rates]


# -------------------------------------------------------------------------------- the same whoever launches


@pytest.fixture(scope="module")
def basic(tmp_path_factory) -> Path:
    """What the sweep comes to in one process."""
    folder = tmp_path_factory.mktemp("basic")
    outcome = metarun("-m", *SMALL, *GRID, RATES, "hydra.sweep.dir=sweep", folder=folder)
    assert outcome.status == 1, outcome.err
    assert {name: result["status"] for name, result in cells(folder / "sweep").items()} == STATUSES
    return folder / "sweep"


@pytest.fixture(scope="module")
def joblib(tmp_path_factory) -> Swept:
    """The same by joblib, with two cells more."""
    return sweep("joblib", *GRID, *FATAL, folder=tmp_path_factory.mktemp("joblib"), TROUBLE_SECONDS="0.05")


@pytest.fixture(scope="module", params=["joblib", "submitit_local", "ray"])
def launched(request, tmp_path_factory) -> Swept:
    """The same by a launcher."""
    if request.param == "joblib":
        return request.getfixturevalue("joblib")
    return sweep(request.param, *GRID, RATES, folder=tmp_path_factory.mktemp(request.param))


@pytest.mark.slow
def test_results_do_not_depend_on_the_launcher(launched, basic):
    assert numbers(launched.folder, *STATUSES) == numbers(basic), launched.err
    assert table(launched.folder, 0.01, 1e20) == table(basic, 0.01, 1e20)


@pytest.mark.slow
def test_a_failed_cell_makes_the_command_fail_at_its_end(launched):
    assert launched.status == 1, launched.err
    assert f"2 of {len(cells(launched.folder))} cells completed" in launched.out


@pytest.mark.slow
def test_an_error_in_a_worker_is_in_the_cells_result_and_log(launched):
    result = read_result(launched.folder / "mtnet_inner_lr=1e+20")
    assert result["error"] == "RuntimeError: this batch is cursed, in mtnet/1e+20/0"
    log = (launched.folder / "mtnet_inner_lr=1e+20" / "metarun.log").read_text()
    for text in (result["traceback"], log):
        assert "Traceback" in text and "in make_trouble" in text and "this batch is cursed" in text
    assert f"failed mtnet_inner_lr=1e+20: {result['error']}" in launched.out


@pytest.mark.slow
def test_nothing_is_left_running(launched):
    assert launched.left == []


@pytest.mark.slow
def test_a_cell_refused_in_a_worker_says_why_and_what_it_was(joblib):
    result = read_result(joblib.folder / "mtnet_inner_lr=0.5")
    assert (result["status"], result["error"]) == ("failed", "data.cell=mtnet/0.5/0 makes no sense")
    assert "algo.inner_lr=0.5" in result["overrides"]


# ------------------------------------------------------------------------------------------ a worker that dies


@pytest.mark.slow
def test_when_a_process_of_joblib_dies_the_other_cells_complete(joblib):
    """joblib ends all of its processes then."""
    found = {name: result.get("status") for name, result in cells(joblib.folder).items()}
    assert found == {**STATUSES, "maml_inner_lr=0.5": None, "mtnet_inner_lr=0.5": "failed"}, joblib.err
    assert "unfinished maml_inner_lr=0.5" in joblib.out


@pytest.mark.slow
def test_when_a_job_of_submitit_dies_the_command_waits_for_those_that_outlast_it(tmp_path):
    """submitit gives a dead job up after 15 s; the other is then still under way."""
    long = (*CELL, "+data.dies=maml/0.01/0", "seed=0,1", "run.iterations=40")
    swept = sweep("submitit_local", *long, folder=tmp_path, TROUBLE_SECONDS="0.55")
    found = {name: result.get("status") for name, result in cells(swept.folder).items()}
    assert found == {"seed=0": None, "seed=1": "completed"}, swept.err
    assert (swept.status, swept.left) == (1, [])
    assert "unfinished seed=0" in swept.out and "1 of 2 cells completed" in swept.out


# ---------------------------------------------------------------------------------------------- interrupted


SEEDS = (*CELL, "algo.inner_lr=1e20,0.01", "seed=0,1,2", "run.checkpoint_seconds=0")
DIVERGED = {f"inner_lr=1e+20_seed={seed}" for seed in range(3)}
WHOLE = {f"inner_lr=0.01_seed={seed}" for seed in range(3)}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Swept:
    """A sweep that got Ctrl-C, as all processes of its terminal, when some cells had ended and one was under way."""
    need("joblib")
    folder = tmp_path_factory.mktemp("interrupted")
    command = ("-m", *SMALL, *LAUNCHERS["joblib"], *SEEDS, "hydra.sweep.dir=sweep")
    process = begin(*command, folder=folder, TROUBLE_SECONDS="0.05")
    try:
        until(lambda: len(list(folder.glob("sweep/*/checkpoint/last.json"))) == 3 and completed(folder / "sweep"))
        time.sleep(0.5)  # some iterations of the third
    finally:
        os.killpg(process.pid, signal.SIGINT)
        swept = ended(process, folder, within=20)
    return swept


def completed(folder: Path) -> set[str]:
    return {name for name, result in cells(folder).items() if result.get("status") == "completed"}


@pytest.mark.slow
def test_an_interrupted_sweep_ends_soon_and_says_how_to_go_on(interrupted):
    assert (interrupted.status, interrupted.left) == (130, []), interrupted.err
    done = len(DIVERGED | completed(interrupted.folder))
    assert done < 6
    assert f"interrupted; {done} of 6 cells are done. Resume: metarun sweep.resume=sweep" in interrupted.err
    assert "Traceback" not in interrupted.err


@pytest.mark.slow
def test_it_goes_on_with_what_is_missing_by_another_launcher(interrupted, tmp_path, monkeypatch):
    folder = interrupted.folder
    done = {name: written(folder / name) for name in DIVERGED | completed(folder)}
    monkeypatch.setenv("TROUBLE_COUNTS", str(tmp_path))
    outcome = metarun("sweep.resume=sweep", "hydra/launcher=basic", folder=folder.parent)
    assert outcome.status == 3, outcome.err  # some have diverged
    assert completed(folder) == WHOLE
    assert {name: written(folder / name) for name in done} == done
    drawn = {path.name.partition("-")[0]: int(path.read_text()) for path in tmp_path.iterdir()}
    assert drawn and set(drawn) == {f"maml_0.01_{name[-1]}" for name in WHOLE - set(done)}
    assert min(drawn.values()) < 60, "the one that was under way started over"
    assert metarun("-m", *SMALL, *SEEDS, "hydra.sweep.dir=at_once", folder=tmp_path).status == 3
    assert numbers(folder) == numbers(tmp_path / "at_once")


def written(folder: Path) -> int:
    return (folder / "result.json").stat().st_mtime_ns


# --------------------------------------------------------------------------------------------------- Slurm


RESOURCES = {
    "partition=gpu": "partition=gpu",
    "timeout_min=30": "time=30",
    "gpus_per_node=1": "gpus-per-node=1",
    "cpus_per_task=2": "cpus-per-task=2",
    "mem_gb=4": "mem=4GB",
    "array_parallelism=2": "array=0-1%2",
}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[Swept]:
    """Two of the cells as a job array; one is preempted and comes back. `slurm` and `counts` lie beside the sweep."""
    folder = tmp_path_factory.mktemp("submitit_slurm")
    (folder / "counts").mkdir()
    environment = {**fake_slurm.install(folder / "slurm"), "TROUBLE_COUNTS": str(folder / "counts")}
    wanted = [f"hydra.launcher.{word}" for word in RESOURCES]
    preempted = ("algo.inner_lr=0.01", "+data.preempted=maml/0.01/0", "run.checkpoint_seconds=0")
    yield sweep("submitit_slurm", *wanted, *GRID, *preempted, folder=folder, **environment)
    fake_slurm.end(folder / "slurm")


@pytest.mark.slow
def test_the_batch_script_says_what_was_configured(slurm):
    (script,) = fake_slurm.scripts(slurm.folder.parent / "slurm")
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert {f"#SBATCH --{word}" for word in RESOURCES.values()} <= set(lines)
    assert "#SBATCH --job-name=metarun" in lines
    (command,) = (line for line in lines if line.startswith("srun "))
    assert "submitit" in command


@pytest.mark.slow
def test_results_by_slurm_are_those_of_one_process(slurm, basic):
    wanted = {name.partition("_")[0]: own for name, own in numbers(basic).items() if "inner_lr=0.01" in name}
    assert numbers(slurm.folder) == wanted, slurm.err
    assert slurm.status == 0
    assert "2 of 2 cells completed" in slurm.out


@pytest.mark.slow
def test_a_preempted_cell_goes_on_from_its_checkpoint_when_slurm_starts_it_again(slurm):
    assert fake_slurm.starts(slurm.folder.parent / "slurm") == {"101_0": 2, "101_1": 1}
    counts = [int(path.read_text()) for path in (slurm.folder.parent / "counts").glob("maml*")]
    assert sorted(counts) == [AT, 60 - AT + 1], "it started over"  # the batch it was stopped in is drawn again
