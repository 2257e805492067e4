"""Checkpoints, written whole or not at all, from which a resumed run equals an unbroken one bit for bit.

A checkpoint is two files, `NAME-ITERATION.safetensors` (the learner's weights, readable by any tool) and
`NAME-ITERATION.state` (optimizers and states of the random generators). The pointer `NAME.json`, replaced last, makes
it the current one: whenever a process is killed, the pointer names a complete pair.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from metarun.files import write_atomically, write_json
from metarun.run_folder import FORMAT


class Checkpoint(NamedTuple):
    """A loaded checkpoint.

    Attributes:
        weights: of the learner.
        state: of the training, `TrainState.state_dict`.
        details: the pointer: iteration, and what `save` was given.
    """

    weights: dict[str, Tensor]
    state: dict[str, Any]
    details: dict[str, Any]


def save(
    folder: Path,
    name: str,
    iteration: int,
    weights: dict[str, Tensor],
    state: dict[str, Any],
    details: dict[str, Any],
) -> None:
    """Write a checkpoint, then remove its predecessor.

    Args:
        folder: `checkpoint/` of the run.
        name: `last` or `best`.
        iteration: outer steps done.
        weights: `learner.state_dict()`.
        state: tensors, numbers and containers that `torch.load(weights_only=True)` reads.
        details: JSON values for the pointer.

    Raises:
        OSError: it could not be written (a full disk); the previous checkpoint is still there and whole.
    """
    stem = f"{name}-{iteration:08d}"
    contiguous = {key: value.detach().contiguous().clone() for key, value in weights.items()}
    write_atomically(folder / f"{stem}.safetensors", lambda file: file.write(safetensors.torch.save(contiguous)))
    buffer = io.BytesIO()  # torch.save straight to a full disk fails with an error that does not say so
    torch.save(state, buffer)
    write_atomically(folder / f"{stem}.state", lambda file: file.write(buffer.getbuffer()))
    write_json(folder / f"{name}.json", {"format": FORMAT, "iteration": iteration, "files": stem, **details})
    half_written = folder.glob(f".{name}*")  # by processes that were killed
    for old in (*folder.glob(f"{name}-*"), *half_written):
        if old.stem != stem:
            old.unlink(missing_ok=True)


def load(folder: Path, name: str) -> Checkpoint:
    """Read checkpoint `name` of a run's `checkpoint/` folder, onto the CPU.

    Raises:
        FileNotFoundError: there is no such checkpoint; the message names the folder.
    """
    pointer = folder / f"{name}.json"
    if not pointer.is_file():
        raise FileNotFoundError(f"no checkpoint {name!r} in {folder}")
    details = json.loads(pointer.read_text())
    stem = folder / details["files"]
    weights = safetensors.torch.load_file(stem.with_suffix(".safetensors"))
    state = torch.load(stem.with_suffix(".state"), map_location="cpu", weights_only=True)
    return Checkpoint(weights, state, details)


def exists(folder: Path, name: str) -> bool:
    """Whether the folder holds a checkpoint of that name."""
    return (folder / f"{name}.json").is_file()
