"""The `metarun` command as the tests give it: in this process, which is quick, or as a process that can be killed."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from metarun.cli import main as cli
from metarun.run_folder import read_result

ROOT = Path(__file__).parents[2]
# A run of a second or so: few tasks, no service, one thread (tests share the machine).
SMALL = (
    "tracker=none",
    "device.threads=1",
    "run.iterations=60",
    "run.meta_batch_size=4",
    "run.eval_tasks=20",
    "run.val_tasks=20",
    "run.validate_every=20",
    "run.log_every=7",
    "run.curve_steps=2",
    "data.queries=10",
)


class Outcome(NamedTuple):
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str


def metarun(*arguments: str, folder: Path, pictures: bool = False) -> Outcome:
    """The command in this process, with `folder` as the current one; pictures take longer than a small run."""
    out, err = io.StringIO(), io.StringIO()
    handlers, level = logging.root.handlers[:], logging.root.level
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(sys, "argv", ["metarun", *arguments]))
        stack.enter_context(patch.dict(os.environ, environment, clear=True))
        stack.enter_context(contextlib.chdir(folder))
        if not pictures:
            stack.enter_context(patch("metarun.experiment.run.draw_result", lambda *_, **__: None))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            cli.main()
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        finally:  # Hydra sets up logging for a process of its own
            logging.root.handlers[:], logging.root.level = handlers, level
    return Outcome(status, out.getvalue(), err.getvalue())


def small(*arguments: str, folder: Path, name: str = "run", **how: bool) -> dict:
    """A small run that must succeed, in `folder`/`name`; its result."""
    outcome = metarun(*SMALL, *arguments, f"hydra.run.dir={name}", folder=folder, **how)
    assert outcome.status == 0, outcome.err
    return read_result(folder / name)


def start(*arguments: str, folder: Path, **environment: str) -> subprocess.Popen:
    """The command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "metarun", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
