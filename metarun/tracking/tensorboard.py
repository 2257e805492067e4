"""TensorBoard: event files in `tensorboard/` of the run's folder, written by torch.utils.tensorboard.

Killed and resumed runs. Every start, so also a resume, opens a new event file that begins with a restart at step 0,
behind which every reader drops what earlier files hold, and then records metrics.jsonl (cut to the checkpoint) again.
So the readers show what metrics.jsonl holds: no point is lost or doubled, whatever the killed process had written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metarun.tracking.records import (
    AsTables,
    Recorded,
    flat_config,
    flat_result,
    markdown,
    measured,
    not_installed,
    recorded_rows,
)
from metarun.tracking.tracker import TrackerError


class TensorBoardTracker(AsTables):
    """A run in TensorBoard; implements `Tracker`. It has no service, hence no id."""

    run_id: str | None = None

    def __init__(self) -> None:
        self.writer: Any = None
        self.config: dict[str, Any] = {}
        self.recorded = Recorded()
        self.iteration = 0

    def start(
        self,
        folder: Path,
        config: dict[str, Any],
        name: str,
        group: str | None,
        tags: Sequence[str],
        run_id: str | None,
    ) -> None:
        del name, group, tags, run_id
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise not_installed("tensorboard", error) from error
        try:
            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=0)
            self.config = flat_config(config)
            self.text("config", f"```json\n{json.dumps(config, indent=2, default=str)}\n```")
            for iteration, values in recorded_rows(folder / "metrics.jsonl"):
                self.scalars(values, iteration)
            self.writer.flush()
        except Exception as error:
            raise TrackerError(f"tracker=tensorboard cannot write to {folder}/tensorboard: {error}") from error

    def log(self, values: dict[str, float], iteration: int) -> None:
        self.scalars(values, iteration)
        self.writer.flush()  # a killed process loses what is not: by default two minutes

    def scalars(self, values: dict[str, float], iteration: int) -> None:
        self.iteration = iteration
        for key, value in self.recorded.new(values, iteration).items():
            self.writer.add_scalar(key, value, iteration)

    def curve(self, metric: str, rows: list[dict[str, Any]]) -> None:
        super().curve(metric, rows)
        for row in rows:
            if row["mean"] is not None:
                self.writer.add_scalar(f"curve/{metric}", row["mean"], row["step"])

    def figure(self, name: str, path: Path) -> None:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self.writer.add_image(f"figures/{name}", pixels, self.iteration, dataformats="HWC")

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        self.text(name, markdown(columns, rows))

    def text(self, name: str, text: str) -> None:
        self.writer.add_text(name, text, self.iteration)

    def summary(self, result: dict[str, Any]) -> None:
        """Numbers on the test tasks, all of it as a table, and the run's line on the page of hyperparameters."""
        from torch.utils.tensorboard.summary import hparams

        summary = flat_result(result)
        numbers = measured(summary)
        self.scalars(numbers, self.iteration)
        self.table("result", ["key", "value"], [[key, value] for key, value in summary.items()])
        if result.get("status") == "interrupted":
            return  # readers keep the first line of a run
        # `add_hparams` would open a second folder
        for part in hparams(self.config, numbers):
            self.writer.file_writer.add_summary(part)

    def artifact(self, folder: Path) -> None:
        """TensorBoard keeps no files."""

    def finish(self, exit_code: int) -> None:
        del exit_code  # it stands in the result
        writer, self.writer = self.writer, None
        if writer is not None:
            writer.close()
