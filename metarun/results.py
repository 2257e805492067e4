"""A run's result: the estimate of a metric with its interval, and `result.json`."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution


class Estimate(NamedTuple):
    """The mean of a metric over tasks and its 95 % interval.

    `ci95` is half the interval's width, 1.96 standard errors over tasks: it says how well the mean over the task
    distribution is known for this one trained learner, and nothing about other seeds.
    """

    mean: float
    ci95: float
    median: float
    tasks: int

    @classmethod
    def of(cls, values: np.ndarray) -> Estimate:
        """From the metric of each task `[tasks]`; the interval of fewer than two tasks is infinite."""
        tasks = len(values)
        with np.errstate(invalid="ignore", over="ignore"):  # a diverged task's is infinite, and so is the spread
            spread = float(values.std(ddof=1)) if tasks > 1 else math.inf
        return cls(float(values.mean()), Z95 * spread / math.sqrt(tasks), float(np.median(values)), tasks)

    def as_dict(self) -> dict[str, float]:
        return {"mean": self.mean, "ci95": self.ci95, "median": self.median}

    def __str__(self) -> str:
        return f"{self.mean:.4g} +- {self.ci95:.2g} ({self.tasks} tasks)"


def bootstrap(tasks: int, statistic: Callable[[np.ndarray], float], resamples: int = 200) -> float:
    """Half the 95 % interval of a statistic of all tasks pooled: 1.96 times its spread over resampled sets of tasks.

    Always the same resamples. Infinite for a single task.

    Args:
        tasks: how many.
        statistic: from how often each task counts `[tasks]` to a number.
        resamples: how many sets.
    """
    if tasks < 2:
        return math.inf
    draws = np.random.default_rng(0).multinomial(tasks, np.full(tasks, 1 / tasks), resamples)
    return Z95 * float(np.std([statistic(weight) for weight in draws], ddof=1))


def decimals_of(width: float) -> int:
    """As many decimals as half an interval has when it is written with two digits."""
    return max(0, 1 - math.floor(math.log10(width)))


def without_nan(value: Any) -> Any:
    """The same structure with None for every number that JSON does not know."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Create or replace `path` whole or not at all; `write` gets the open temporary file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide results from one's group
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write JSON, atomically; NaN and infinity become null."""
    text = json.dumps(without_nan(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(path, text)


def read_result(folder: Path) -> dict[str, Any]:
    """`result.json` of a run's folder.

    Raises:
        FileNotFoundError: the run left none (yet).
    """
    return json.loads((folder / "result.json").read_text())
