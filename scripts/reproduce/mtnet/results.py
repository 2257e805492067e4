"""Reading the results of the sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from metarun.run_folder import leaves, read_config, result_or_empty
from scripts.reproduce.mtnet.sweeps import ROBUST


class RunResult(NamedTuple):
    """One run: its folder, its `result.json`, and the configuration it was started with."""

    folder: Path
    result: dict[str, Any]
    config: dict[str, Any]

    @property
    def mean(self) -> float | None:
        """The headline; None: it diverged."""
        return self.result["mean"]

    @property
    def published(self) -> dict[str, Any] | None:
        """The published figure of this cell, `value` and `ci95`, where the configuration has one."""
        return self.result["paper"]

    def at_step(self, step: int, statistic: str = "mean") -> float | None:
        """`mean` or `median` over tasks after so many adaptation steps; None: not finite, or no such step."""
        return next((row[statistic] for row in self.result["steps"] if row["step"] == step), None)


class Results:
    """The results of all sweeps.

    Args:
        folder: holds a folder for each sweep, with a folder for each cell.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of_sweep(self, name: str) -> list[RunResult]:
        """All cells of a sweep that left a result, in their order."""
        folders = sorted((self.folder / name).glob("[0-9]*"), key=lambda path: int(path.name))
        results = [(folder, result_or_empty(folder)) for folder in folders]
        return [RunResult(folder, result, read_config(folder)) for folder, result in results if result]

    def select(self, name: str, values: Mapping[str, Any]) -> list[RunResult]:
        """Cells of a sweep whose configuration has these values, by dotted key."""
        return [run for run in self.of_sweep(name) if values.items() <= _flat(run.config).items()]

    def sinusoid(self, algo: str, shots: int) -> list[RunResult]:
        """The cells of an algorithm in the sinusoid table."""
        if algo in ROBUST and shots == 10:
            return self.select(f"learning_rate_{algo}", {"algo.inner_lr": 0.01})
        return self.of_sweep(f"sinusoid_{algo}_{shots}")


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    return dict(leaves(config))
