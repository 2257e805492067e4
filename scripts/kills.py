"""Kill metarun at any moment, resume, and compare what is left with a run that nobody killed, to the last bit.

    python -m scripts.kills --kills 100 --seed 0

Four kinds of command take turns: one run, a grid, a grid as one program (hydra/launcher=fused), two processes. Each is
killed (SIGKILL) at a moment drawn between its start and its end, from the first file to the last, then resumed as a
user would: `run.resume=FOLDER` or `sweep.resume=FOLDER`; where nothing was written yet, by the command itself. A killed
resumption is resumed again, up to three times. Exit status 1 if any result differs or cannot be had.

Processes fork from one that has imported everything, so that a kill costs a second and not ten.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SMALL = (
    *("tracker=none", "device=cpu", "device.threads=1", "run.meta_batch_size=4", "run.eval_tasks=20"),
    *("run.val_tasks=20", "run.validate_every=20", "run.log_every=7", "run.curve_steps=2", "data.queries=10"),
    *("run.checkpoint_seconds=0", "backbone.hidden=[8]", "run.iterations=120"),
)
GRID = ("-m", "algo=maml,mtnet", "seed=0,1")
KINDS: dict[str, tuple[str, ...]] = {
    "single": (),
    "grid": GRID,
    "fused": (*GRID, "hydra/launcher=fused"),
    "two": (),
}
BY_THE_CLOCK = {"train_seconds", "compile_seconds", "iterations_per_second", "peak_memory_mb", "overrides", "commit"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="how many in all (default 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--keep", type=Path, help="a folder for what is left (default: a temporary one)")
    arguments = parser.parse_args()
    warm_up()
    draw, bad = random.Random(arguments.seed), 0
    with tempfile.TemporaryDirectory() as temporary:
        place = (arguments.keep or Path(temporary)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        whole = {kind: unbroken(kind, place) for kind in arguments.kinds}
        for number in range(arguments.kills):
            kind = arguments.kinds[number % len(arguments.kinds)]
            text, good = killed(kind, place / f"{number:03d}_{kind}", whole[kind], draw)
            bad += not good
            print(f"{number:3d} {kind:7s}{text}", flush=True)
    print(f"{arguments.kills} kills, seed {arguments.seed}: {arguments.kills - bad} resumed bit for bit, {bad} not")
    return int(bad > 0)


def warm_up() -> None:
    import torch

    import metarun.cli.main
    import metarun.experiment.run
    import metarun.fused.launcher  # noqa: F401

    torch.set_num_threads(1)


def unbroken(kind: str, place: Path) -> tuple[Path, float]:
    """The folder of a command that nobody kills, and its seconds."""
    folder = place / f"unbroken_{kind}"
    started = time.monotonic()
    statuses = wait(start(kind, command(kind, folder), folder))
    assert set(statuses) == {0}, (statuses, log_of(folder))
    return folder, time.monotonic() - started


def killed(kind: str, folder: Path, whole: tuple[Path, float], draw: random.Random) -> tuple[str, bool]:
    """Kill a command once or more, resume it; what happened, and whether the result is the same."""
    moments = []
    for attempt in range(draw.choice((1, 1, 1, 2, 3))):
        words = resumption(kind, folder) if attempt else command(kind, folder)
        processes = start(kind, words, folder)
        moments.append(draw.uniform(0, whole[1]))
        time.sleep(moments[-1])
        victims = processes if draw.random() < 0.7 else [draw.choice(processes)]
        for process in victims:
            kill(process)
        if len(victims) < len(processes):
            time.sleep(1)
        for process in processes:
            kill(process)
        wait(processes)
    state = "nothing written" if not folder.exists() else "a folder"
    statuses = wait(start(kind, resumption(kind, folder), folder))
    text = f" after {', '.join(f'{moment:.2f}' for moment in moments)} s, {state}: exit {statuses}"
    if set(statuses) != {0}:
        return f"{text}\n{log_of(folder)}", False
    differences = compare(whole[0], folder)
    return f"{text}, {'; '.join(differences) or 'identical'}", not differences


def command(kind: str, folder: Path) -> list[str]:
    where = "hydra.sweep.dir" if "-m" in KINDS[kind] else "hydra.run.dir"
    return [*KINDS[kind], *SMALL, f"{where}={folder}"]


def resumption(kind: str, folder: Path) -> list[str]:
    """What a user types after a kill: there is something to resume, or the command is typed again."""
    if "-m" in KINDS[kind]:
        return [f"sweep.resume={folder}"] if (folder / "multirun.yaml").is_file() else command(kind, folder)
    return [f"run.resume={folder}"] if (folder / ".hydra").is_dir() else command(kind, folder)


# ------------------------------------------------------------------------------------------------- processes


def start(kind: str, words: Sequence[str], folder: Path) -> list[int]:
    """Fork the processes of a command; their numbers."""
    sys.stdout.flush()
    if kind != "two":
        return [fork(words, folder, {})]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [fork(words, folder, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in (0, 1)]


def fork(words: Sequence[str], folder: Path, environment: dict[str, str]) -> int:
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        log = os.open(log_file(folder), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(environment)
        sys.argv = ["metarun", *words]
        from metarun.cli.main import main as metarun

        metarun()
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(processes: Sequence[int], seconds: float = 120) -> list[int]:
    """Exit statuses; whoever takes longer is killed."""
    statuses: dict[int, int] = {}
    end = time.monotonic() + seconds
    while len(statuses) < len(processes):
        for process in set(processes) - set(statuses):
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                statuses[process] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                kill(process)
        time.sleep(0.01)
    return [statuses[process] for process in processes]


def kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        pass


def log_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")


def log_of(folder: Path) -> str:
    return "\n".join(log_file(folder).read_text(errors="replace").splitlines()[-15:])


# ------------------------------------------------------------------------------------------------ comparison


def compare(whole: Path, folder: Path) -> list[str]:
    """Names of what is different, or missing, in any run below two folders."""
    differences = []
    for result in sorted(whole.rglob("result.json")):
        own = result.parent
        other = folder / own.relative_to(whole)
        for what, read in (("result", result_of), ("metrics", metrics_of), ("tensors", tensors_of)):
            try:
                same = read(own) == read(other)
            except (OSError, ValueError) as error:
                differences.append(f"{other.name}/{what}: {error}")
                continue
            if not same:
                differences.append(f"{other.name}/{what}")
    return differences


def result_of(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    return {key: value for key, value in result.items() if key not in BY_THE_CLOCK}


def metrics_of(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def tensors_of(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Every tensor of the checkpoints, and every array of the held-out tasks, as bytes."""
    import numpy as np

    from metarun.training import checkpoint

    found = {}
    for name in ("last", "best"):
        for key, value in checkpoint.load(folder / "checkpoint", name).weights.items():
            found[f"{name}/{key}"] = (str(value.dtype), value.numpy().tobytes())
    with np.load(folder / "episodes.npz") as arrays:
        for key in arrays:
            found[f"episodes/{key}"] = (str(arrays[key].dtype), arrays[key].tobytes())
    return found


if __name__ == "__main__":
    sys.exit(main())
