"""One learner trained by several processes is the learner that one process trains."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import commands
import pytest
import several
import torch

from metarun.experiment.build import saved_config
from metarun.experiment.cell import RunSpec
from metarun.experiment.run import run_worker
from metarun.experiment.trainer import Trainer
from metarun.run_folder import read_result
from metarun.training import distributed
from metarun.training.distributed import MissingProcessError, SingleProcess, bounds, process_group

RUN = (*commands.SMALL, "algo=maml", "data=sinusoid", "device.precision=float64", "run.meta_batch_size=5")


# The machine's name need not lead to an address.
LOOPBACK = {"OMP_NUM_THREADS": "1"} | ({"GLOO_SOCKET_IFNAME": "lo"} if Path("/sys/class/net/lo").exists() else {})


def torchrun(*words: str, folder, wait: bool = True):
    """Two processes, as a user starts them."""
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", *words],
        cwd=folder,
        env={**os.environ, **LOOPBACK, "PYTHONPATH": f"{commands.ROOT}:{commands.ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if not wait:
        return process
    out, err = process.communicate(timeout=240)
    return commands.Outcome(process.returncode, out, err)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    outcome = torchrun(several.__file__, folder=tmp_path_factory.mktemp("several"))
    assert outcome.status == 0, outcome.err
    return json.loads(outcome.out.strip().splitlines()[-1])


@pytest.mark.parametrize("task_micro_batch", [None, 1])
@pytest.mark.parametrize("name", several.LEARNERS)
def test_two_processes_train_what_one_trains(reports, name, task_micro_batch):
    report = reports[f"{name}, {task_micro_batch}"]
    assert report["difference"] < 1e-10 and report["losses"] < 1e-10
    assert report["moved"] > 1e-3 and report["generators"]
    assert report["seen"] == [task_micro_batch or several.TASKS // 2]  # process 0 of two: two tasks of five


@pytest.mark.parametrize(("size", "tasks"), [(2, 5), (3, 3), (4, 9), (1, 2)])
def test_shards_are_all_tasks_once(size, tasks):
    shards = [range(*bounds(rank, size, tasks)) for rank in range(size)]
    assert [task for shard in shards for task in shard] == list(range(tasks))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_single_process_shards_nothing():
    with process_group(torch.device("cpu")) as world:
        assert type(world) is SingleProcess and not torch.distributed.is_initialized()
    assert (world.rank, world.size, world.shard([7], 7), world.all_reduce_sum(0.5), world.all_reduce_any(True)) == (
        0,
        1,
        [7],
        0.5,
        True,
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return commands.small(*RUN[len(commands.SMALL) :], folder=tmp_path_factory.mktemp("alone"))


def test_a_run_in_two_processes_is_the_run_in_one(alone, tmp_path):
    outcome = torchrun("-m", "metarun", *RUN, "hydra.run.dir=run", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    result = read_result(tmp_path / "run")
    assert result["mean"] == pytest.approx(alone["mean"], rel=1e-10)
    assert result["validation"] == pytest.approx(alone["validation"], rel=1e-10)
    assert result["episodes"] == alone["episodes"] and result["processes"] == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]  # the other process left nothing
    assert outcome.out.count("iterations") == 1 and outcome.out.count("0 of 60") == 1  # one of them speaks
    again = torchrun("-m", "metarun", "run.resume=run", folder=tmp_path)
    assert again.status == 0, again.err
    assert again.out.count("is completed, there is nothing to resume") == 1


LONGER = (*RUN, "run.iterations=1500", "run.validate_every=1500", "run.checkpoint_seconds=3600")


def struck(signum, folder) -> tuple[dict, str]:
    """A run of two processes, the second of which gets a signal on the way: what the run left, and what was printed."""
    process = torchrun("-m", "metarun", *LONGER, "hydra.run.dir=run", folder=folder, wait=False)
    try:
        metrics = folder / "run" / "metrics.jsonl"
        assert within(120, lambda: metrics.is_file() and len(metrics.read_text().splitlines()) > 5)
        (other,) = [p for p in children(process.pid) if environment(p).get("RANK") == "1"]
        os.kill(other, signum)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1, err
    result = read_result(folder / "run")
    assert 30 < result["iteration"] < 1500
    pointer = json.loads((folder / "run" / "checkpoint" / "last.json").read_text())
    assert pointer["iteration"] == result["iteration"]  # no step was lost, nor half of one saved
    return result, err


@pytest.mark.slow
def test_a_lost_process_ends_the_run_with_a_checkpoint_to_go_on_from(tmp_path):
    result, _ = struck(signal.SIGKILL, tmp_path)
    assert result["status"] == "failed"
    assert commands.metarun("run.resume=run", folder=tmp_path).status == 0  # in one process now
    unbroken = commands.small(*LONGER[len(commands.SMALL) :], folder=tmp_path, name="unbroken")
    assert read_result(tmp_path / "run")["mean"] == pytest.approx(unbroken["mean"], rel=1e-9)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_between_two_steps(tmp_path):
    result, err = struck(signal.SIGTERM, tmp_path)
    assert result["status"] == "interrupted"
    assert "metarun/cli" not in err  # no traceback of ours beside torchrun's own


def meeting(monkeypatch, rank: str, port: int, **settings: str) -> MissingProcessError:
    """What a process of two says that waits a second for the other one."""
    here = {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in (here | settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "START_TIMEOUT", timedelta(seconds=1))
    with pytest.raises(MissingProcessError) as caught, process_group(torch.device("cpu")):
        pass
    assert not torch.distributed.is_initialized()
    return caught.value


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.mark.slow
def test_who_does_not_come_is_named_and_not_waited_for_long(monkeypatch):
    error = meeting(monkeypatch, "0", free_port())
    assert str(error) == "process 1 of 2 did not start within 0.0167 minutes" and not error.first_missing
    port = free_port()
    error = meeting(monkeypatch, "1", port)
    assert f"process 1 of 2 found no process 0 at MASTER_ADDR:MASTER_PORT=127.0.0.1:{port}" in str(error)
    assert error.first_missing


def test_two_processes_of_one_rank_are_told(monkeypatch):
    port = free_port()
    store = torch.distributed.TCPStore("127.0.0.1", port, 2, True, wait_for_workers=False, multi_tenant=True)
    monkeypatch.setattr(distributed, "MEETINGS", iter([7]))
    store.add("metarun/0.7/1", 1)
    assert str(meeting(monkeypatch, "1", port)) == "two processes have RANK=1"


def test_ranks_without_sense_are_refused_in_one_line(monkeypatch, tmp_path):
    for name, value in {"RANK": "abc", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    outcome = commands.metarun(*RUN, folder=tmp_path)
    assert outcome.status == 2 and outcome.err.startswith("metarun: the environment variable RANK must be an integer")
    assert outcome.err.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_worker_of_a_completed_run_has_nothing_to_do(tmp_path, monkeypatch):
    """Process 0 says that it is completed and ends; here the second one finds itself alone."""
    commands.small(*RUN[len(commands.SMALL) :], folder=tmp_path)
    cfg, choices = saved_config(tmp_path / "run")
    cfg.run.resume = str(tmp_path / "run")
    monkeypatch.setattr(Trainer, "work", lambda _: pytest.fail("there is nothing to do"))
    assert run_worker(RunSpec(cfg, choices, tmp_path / "run", []))["exit_status"] == 0


@pytest.mark.slow
def test_a_multirun_is_refused_once(tmp_path):
    outcome = torchrun("-m", "metarun", "-m", *RUN, "seed=0,1", folder=tmp_path)
    assert outcome.status == 1 and not list(tmp_path.iterdir())
    assert outcome.err.count("metarun: torchrun shares the tasks of one run") == 1


@pytest.mark.slow
def test_fewer_tasks_than_processes_are_refused(tmp_path):
    outcome = torchrun("-m", "metarun", *RUN, "run.meta_batch_size=1", folder=tmp_path)
    assert outcome.status == 1 and not list(tmp_path.rglob("result.json"))
    assert outcome.err.count("metarun: run.meta_batch_size must be at least 2, a task for each process; got 1") == 1


def within(seconds: float, happened) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if happened():
            return True
        time.sleep(0.1)
    return False


def children(pid: int) -> list[int]:
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in listing.stdout.split()]


def environment(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/environ") as file:
        return dict(entry.split("=", 1) for entry in file.read().split("\0") if "=" in entry)
