"""Sinusoids that make trouble in the cells that are named, in whatever process a launcher runs them.

The words of `CELL` choose it and say which cell this is; `+data.raises=mtnet/0.5/0` and the like say where the trouble
comes. The rest is `data=sinusoid`.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch

from metarun.data import sinusoid
from metarun.tasks import Batch, Split

CELL = ("data._target_=trouble.Sinusoid", "+data.cell='${hydra:runtime.choices.algo}/${algo.inner_lr}/${seed}'")
AT = 3  # the training batch that trouble comes with; an error comes with the first


class Sinusoid(sinusoid.Sinusoid):
    """Draws sinusoids, except where it does not.

    Args:
        cell: which this is, ALGO/INNER_LR/SEED.
        refuses, raises, dies, preempted: the cell that is refused, that raises in training, whose process is killed in
            training, that gets Slurm's signal in training unless it was started again already.
        rest: of `data=sinusoid`.

    The environment's TROUBLE_SECONDS makes every training batch last so long; in TROUBLE_COUNTS each process leaves a
    file with how many it drew.
    """

    def __init__(
        self, cell: str, refuses: str = "", raises: str = "", dies: str = "", preempted: str = "", **rest: Any
    ) -> None:
        if cell == refuses:
            raise ValueError(f"data.cell={cell} makes no sense")
        super().__init__(**rest)
        self.cell, self.drawn = cell, 0
        self.raises, self.dies, self.preempted = cell == raises, cell == dies, cell == preempted

    def sample(self, part: Split, stream: str, tasks: int, generator: torch.Generator) -> Batch:
        if part == "train":
            self.drawn += 1
            time.sleep(float(os.environ.get("TROUBLE_SECONDS", "0")))
            if folder := os.environ.get("TROUBLE_COUNTS"):
                name = f"{self.cell.replace('/', '_')}-{os.getpid()}"
                Path(folder, name).write_text(str(self.drawn))
            self.make_trouble()
        return super().sample(part, stream, tasks, generator)

    def make_trouble(self) -> None:
        if self.raises:  # before it can diverge
            raise RuntimeError(f"this batch is cursed, in {self.cell}")
        if self.drawn == AT and self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.drawn == AT and self.preempted and not int(os.environ.get("SLURM_RESTART_COUNT", "0")):
            os.kill(os.getpid(), signal.SIGUSR2)
