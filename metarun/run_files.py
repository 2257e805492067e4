"""The files of a run's folder, which may be damaged or somebody else's: each is read whole and checked, or refused.

Whatever is wrong with a file is a ValueError or an OSError, whose message says what, so that a report can show it.
Pipes and devices are not opened, for reading them may never end.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from metarun.checks import require

if TYPE_CHECKING:
    import numpy as np

MOST_BYTES = 1 << 26  # of result.json and of a configuration, thousands of times what a run writes
MOST_NODES = 100_000  # of either, aliases of YAML written out
MOST_DEEP = 100
MOST_EPISODE_BYTES = 1 << 30  # of episodes.npz, decompressed
LARGEST = 1e300  # of a number, so that sums and squares of a few are finite too
STATUSES = ("completed", "diverged", "failed", "interrupted")


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """A regular file.

    Raises:
        OSError: it is missing, not a regular file, or cannot be read.
        ValueError: it has more than `most` bytes.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is not a regular file")
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"it has {size:,} bytes, and at most {most:,} are read")
    return path.read_bytes()


def parse_json(text: str) -> Any:
    """JSON, without NaN and infinity, which are no JSON.

    Raises:
        ValueError: it is none.
    """

    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def bounded(content: Any) -> Any:
    """A structure as it is, if it is of a size that a run writes: YAML's aliases can make one that never ends.

    Raises:
        ValueError: it is not.
    """
    nodes, level = 0, [content]
    for _ in range(MOST_DEEP):
        nodes += len(level)
        if nodes > MOST_NODES:
            raise ValueError(f"it holds more than {MOST_NODES:,} values")
        level = [entry for node in level for entry in _entries(node)]
        if not level:
            return content
    raise ValueError(f"it is nested more than {MOST_DEEP} levels deep")


def _entries(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return list(node) if isinstance(node, list | tuple | set) else []


# ---------------------------------------------------------------------------------------------------- result.json


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _is_number_or_none(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_size(value: Any) -> bool:
    return value is None or (_is_number(value) and value >= 0)


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_scalar(value: Any) -> bool:
    return _is_text(value) or isinstance(value, bool) or _is_number(value)


def _is_estimate(value: Any) -> bool:
    """{mean, ci95, median}, as far as they are there."""
    return (
        isinstance(value, dict)
        and _is_number_or_none(value.get("mean"))
        and _is_size(value.get("ci95"))
        and _is_number_or_none(value.get("median"))
    )


def _are_steps(value: Any) -> bool:
    return isinstance(value, list) and all(_is_estimate(row) and _is_number(row.get("step")) for row in value)


def _are_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_estimate, value.values()))


def _is_paper(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and _is_number(value.get("value")) and _is_size(value.get("ci95")))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


Check = tuple[Callable[[Any], bool], str]
TEXT: Check = (_is_text, "text or null")
NUMBER: Check = (_is_number_or_none, "a number or null")
SIZE: Check = (_is_size, "a number of at least 0, or null")
FIELDS: Mapping[str, Check] = {
    "status": (lambda value: value in STATUSES, f"one of {', '.join(STATUSES)}"),
    **dict.fromkeys(("error", "algo", "data", "backbone", "metric", "episodes", "partition"), TEXT),
    **dict.fromkeys(("mean", "median", "step"), NUMBER),
    **dict.fromkeys(("ci95", "tasks", "iteration", "iterations"), SIZE),
    **dict.fromkeys(("train_seconds", "test_seconds", "iterations_per_second"), SIZE),
    **dict.fromkeys(("ways", "shots", "queries", "pairs", "parameters", "peak_memory_mb"), SIZE),
    "seed": (_is_scalar, "a number, text or null"),
    "higher_is_better": (lambda value: isinstance(value, bool | None), "true, false or null"),
    "steps": (_are_steps, "a list of {step, mean, ci95, median}"),
    "metrics": (_are_metrics, "a mapping of metrics to {mean, ci95, median}"),
    "paper": (_is_paper, "{source, table, value, ci95, read} with a number as value, or null"),
    "overrides": (_are_texts, "a list of texts"),
}


def checked_result(content: Any) -> dict[str, Any]:
    """The content of result.json, if every field that is there has the type that a run writes.

    Raises:
        ValueError: it is no mapping, has no status, or a field has another type.
    """
    if not isinstance(content, dict):
        raise ValueError("it holds no mapping")
    bounded(content)
    for name, (holds, what) in FIELDS.items():
        if name in content or name == "status":
            value = content.get(name)
            require(name, _shortened(value), holds(value), what)
    return content


def _shortened(value: Any) -> Any:
    """A value for a message."""
    text = repr(value)
    return value if len(text) <= 60 else f"{text[:57]}..."


# ---------------------------------------------------------------------------------------------------- episodes.npz


def read_episodes(path: Path, metric: str) -> np.ndarray:
    """The headline metric of each held-out task `[tasks]`, at the headline's step.

    Args:
        path: episodes.npz.
        metric: the headline.

    Raises:
        ValueError: it cannot be read, or does not hold that; the message says why.
    """
    try:
        return _checked_episodes(path, metric)
    except FileNotFoundError as error:
        raise ValueError(f"there is no {path.name}") from error
    # zipfile, zlib and numpy's readers raise many kinds of errors for damaged files
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"{path.name} cannot be read: {lines[0]}") from error


def _checked_episodes(path: Path, metric: str) -> np.ndarray:
    import numpy as np

    if path.exists() and not path.is_file():
        raise OSError("it is not a regular file")
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        require("its size", size, size <= MOST_EPISODE_BYTES, f"at most {MOST_EPISODE_BYTES:,} bytes")
    with np.load(path, allow_pickle=False) as file:
        if metric not in file:
            raise ValueError(f"it holds no {metric}" if metric else "the run names no metric")
        values, step = file[metric], np.asarray(file["headline_step"] if "headline_step" in file else 0)
    require(metric, values.dtype.name, values.dtype.kind in "fiu" and values.ndim in (1, 2), "numbers of each task")
    require("headline_step", step.tolist(), step.shape == () and step.dtype.kind in "iu", "an integer")
    if values.ndim == 1:
        return values
    columns = values.shape[1]
    require("headline_step", int(step), 0 <= step < columns, f"one of the {columns} steps that it holds")
    return values[:, int(step)]
