"""A run that is recorded by a tracker, killed, and resumed, each in a process of its own without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from commands import ROOT
from PIL import Image

CONFIG = {"algo": {"name": "maml", "inner_lr": 0.01}, "data": {"hidden": [40, 40], "root": None}, "seed": 3}
ROWS = [{"step": step, "mean": 0.2 + 0.1 * step, "ci95": 0.01, "median": None} for step in range(3)]
RESULT = {
    "status": "completed",
    "metric": "accuracy",
    "mean": 0.95,
    "ci95": 0.01,
    "median": None,
    "tasks": 600,
    "metrics": {"nll": {"mean": 0.25, "ci95": 0.02, "median": 0.2}},
    "paper": None,
}
ITERATIONS = list(range(100, 900, 100))  # what a reader has to show of it
VALIDATED = [200, 400, 600, 800]

WRITER = """
import os, signal, socket, sys
from pathlib import Path
folder, run_id, how = Path(sys.argv[1]), sys.argv[2] or None, sys.argv[5]
first, last = int(sys.argv[3]), int(sys.argv[4])

def refuse(*arguments, **_):  # an error in a thread would not be seen
    with open(folder / "network", "a") as file:
        print(*map(str, arguments), file=file)
    raise OSError("no network")

socket.getaddrinfo = socket.socket.connect = refuse
from metarun.tracking.jsonl import MetricsFile
from tracked import CONFIG, RESULT, ROWS
import {module}
tracker = {module}.{made}
metrics = MetricsFile(folder / "metrics.jsonl")
metrics.cut(first - 100)
config = {{**CONFIG, "choices": {{"algo": "maml"}}}}
tracker.start(folder, config, "omniglot/maml/run", "rates", ["maml", "omniglot"], run_id)
(folder / "run_id").write_text(tracker.run_id or "")

def record(values, iteration):
    metrics.log(values, iteration)
    if iteration != 200:  # which the killed process loses
        tracker.log(values, iteration)

for iteration in range(first, last + 1, 100):
    record({{"train/loss": 1 / iteration, "time/train_seconds": iteration + 0.5}}, iteration)
    if iteration % 200 == 0:
        record({{"val/accuracy": iteration / 1000, "time/train_seconds": iteration + 0.75}}, iteration)
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
tracker.curve("accuracy", ROWS)
tracker.table("instances", ["instance", "accuracy"], [[1, 0.2], [2, 0.9]])
tracker.lines("curve/roc", "false positive rate", {{"pairs": [(0.0, 0.5), (1.0, None)]}})
tracker.figure("step_curve", folder / "step_curve.png")
tracker.summary(RESULT)
tracker.artifact(folder / "checkpoint")
tracker.finish(0)
tracker.finish(0)
"""


def killed_and_resumed(folder: Path, module: str, made: str, **environment: str) -> Path:
    """Record a run that is killed after iteration 500, and resumed from its checkpoint of 300 to iteration 800.

    Args:
        folder: the run's; made.
        module: of the tracker.
        made: the call that makes it.
        environment: further variables.
    """
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "weights.safetensors").write_bytes(b"weights")
    Image.new("RGB", (4, 6), (255, 0, 0)).save(folder / "step_curve.png")
    script = WRITER.format(module=module, made=made)
    variables = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'helpers'}", **environment}
    run_id = ""
    for first, last, how, status in ((100, 500, "killed", -9), (400, 800, "finished", 0)):
        command = [sys.executable, "-c", script, str(folder), run_id, str(first), str(last), how]
        done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=200, cwd=folder)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", ""), done.stderr
        run_id = (folder / "run_id").read_text()
    assert not (folder / "network").exists(), (folder / "network").read_text()
    return folder
