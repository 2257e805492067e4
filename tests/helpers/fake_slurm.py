"""A Slurm of one node, as commands for PATH: enough of it for submitit to hand in job arrays and to wait for them.

What it does as Slurm does: `sbatch` reads the #SBATCH lines, keeps a copy of the script and returns at once with the
job's number; the tasks of an array run by bash in the background, at most so many at once as `--array=0-3%2` says, with
Slurm's variables, in process groups of their own; `srun` starts the command with its rank and its own output; `sacct`
tells the states; `scontrol requeue` runs a task again from its beginning (SLURM_RESTART_COUNT); `scancel` kills.
It enforces no limit: time, memory, CPUs and GPUs are the script's words alone.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "scontrol", "scancel")


def install(folder: Path) -> dict[str, str]:
    """Write the commands to `folder`; returns the environment that has them. Jobs' scripts and states lie beside."""
    (folder / "bin").mkdir(parents=True)
    for name in COMMANDS:
        command = shlex.join([sys.executable, "-S", "-E", str(Path(__file__).resolve()), name])
        (folder / "bin" / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    return {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "FAKE_SLURM": str(folder)}


def scripts(folder: Path) -> list[str]:
    """What was handed in, oldest first."""
    return [path.read_text() for path in sorted(folder.glob("*.sh"))]


def starts(folder: Path) -> dict[str, int]:
    """How often each task was started."""
    return {path.stem: path.read_text().split().count("RUNNING") for path in sorted(folder.glob("*.states"))}


def end(folder: Path) -> None:
    """Kill whatever still runs."""
    for path in folder.glob("*.pid"):
        kill(int(path.read_text()), signal.SIGKILL)


def kill(group: int, signum: int) -> None:
    try:
        os.killpg(group, signum)
    except ProcessLookupError:
        pass


# ----------------------------------------------------------------------------------------------- the commands


def home() -> Path:
    return Path(os.environ["FAKE_SLURM"])


def say(task: str, state: str) -> None:
    """Put a state under a task's earlier ones."""
    with (home() / f"{task}.states").open("a") as file:
        file.write(f"{state}\n")


def sbatch(script: str) -> None:
    """Take a job in."""
    job = str(101 + 100 * len(list(home().glob("*.sh"))))
    (home() / f"{job}.sh").write_text(Path(script).read_text())
    for task in tasks(job):
        say(task, "PENDING")
    daemon = [sys.executable, "-S", "-E", __file__, "control", job]
    nowhere = subprocess.DEVNULL
    started = subprocess.Popen(daemon, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
    (home() / f"{job}.pid").write_text(str(started.pid))
    print(f"Submitted batch job {job}")


def options(job: str) -> dict[str, str]:
    """The #SBATCH lines of a job's script."""
    found = re.findall(r"^#SBATCH --([\w-]+)=(.*)$", (home() / f"{job}.sh").read_text(), re.M)
    return {key: shlex.split(value)[0] for key, value in found}


def tasks(job: str) -> list[str]:
    if array := options(job).get("array"):
        first, last = array.partition("%")[0].split("-")
        return [f"{job}_{number}" for number in range(int(first), int(last) + 1)]
    return [job]


def control(job: str) -> None:
    """Run a job's tasks, in the background, to their end."""
    most = int(options(job).get("array", "").partition("%")[2] or 1)
    waiting, running = tasks(job), {}
    while waiting or running:
        while waiting and len(running) < most:
            task = waiting.pop(0)
            running[task] = start(task)
        for task, process in list(running.items()):
            if process.poll() is not None:
                del running[task]
                if last_state(task) == "REQUEUED":
                    waiting.append(task)
                elif last_state(task) == "RUNNING":
                    say(task, "FAILED" if process.returncode else "COMPLETED")
        time.sleep(0.05)


def last_state(task: str) -> str:
    return (home() / f"{task}.states").read_text().split()[-1]


def start(task: str) -> subprocess.Popen:
    """Start a task's script."""
    job, _, index = task.partition("_")
    given = options(job)
    environment = {
        "SLURM_JOB_ID": str(int(job) + int(index or 0)),  # of an array, each task has one of its own
        "SLURM_JOB_NUM_NODES": given.get("nodes", "1"),
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_JOB_PARTITION": given.get("partition", "main"),
        "SLURM_CPUS_PER_TASK": given.get("cpus-per-task", "1"),
        "SLURM_NTASKS": "1",
        "SLURM_RESTART_COUNT": str((home() / f"{task}.states").read_text().split().count("RUNNING")),
    }
    if index:
        environment |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": index}
    say(task, "RUNNING")
    with open(filled(given["output"], environment), "a") as out:
        process = subprocess.Popen(
            ["bash", str(home() / f"{job}.sh")],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    (home() / f"{task}.pid").write_text(str(process.pid))
    return process


def filled(pattern: str, environment: dict[str, str]) -> str:
    """A file's name for a pattern of Slurm's."""
    job = environment["SLURM_JOB_ID"]
    values = {
        "%A": environment.get("SLURM_ARRAY_JOB_ID", job),
        "%a": environment.get("SLURM_ARRAY_TASK_ID", ""),
        "%j": job,
        "%t": environment.get("SLURM_PROCID", "0"),
    }
    for sign, value in values.items():
        pattern = pattern.replace(sign, value)
    return pattern


def srun(*arguments: str) -> None:
    """Become the command, as the only task of the step."""
    words = list(arguments)
    os.environ |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    files = {"--output": 1, "--error": 2}
    while words[0].startswith("--"):
        option = words.pop(0)
        if option in files:
            path = filled(words.pop(0), dict(os.environ))
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), files[option])
        elif option != "--unbuffered":
            sys.exit(f"srun: this one does not know {option}")
    os.execvp(words[0], words)


def sacct(*arguments: str) -> None:
    """The states of jobs."""
    jobs = [word for before, word in zip(arguments, arguments[1:], strict=False) if before == "-j"]
    print("JobID|State|NodeList")
    for job in jobs:
        for task in tasks(job):
            print(f"{task}|{last_state(task)}|node1")
            print(f"{task}.0|{last_state(task)}|node1")


def scontrol(verb: str, task: str) -> None:
    """`requeue`: the task ends and starts again."""
    if verb != "requeue":
        sys.exit(f"scontrol: this one does not know {verb}")
    say(task, "REQUEUED")


def scancel(*jobs: str) -> None:
    """End tasks."""
    for job in jobs:
        for task in tasks(job) if "_" not in job else [job]:
            say(task, "CANCELLED")
            if (pid := home() / f"{task}.pid").is_file():
                kill(int(pid.read_text()), signal.SIGTERM)


if __name__ == "__main__":
    COMMAND = {"sbatch": sbatch, "srun": srun, "sacct": sacct, "scontrol": scontrol, "scancel": scancel}
    {**COMMAND, "control": control}[sys.argv[1]](*sys.argv[2:])
