"""Checkpoints, written whole or not at all, from which a resumed run equals an unbroken one bit for bit.

A checkpoint is two files, `NAME-ITERATION.safetensors` (the learner's weights, readable by any tool) and
`NAME-ITERATION.state` (optimizers and states of the random generators). The pointer `NAME.json`, replaced last, makes
it the current one: whenever a process is killed, the pointer names a complete pair. It holds the digests of both, of
the run's configuration, and its own, so a file that is damaged, edited or another run's is refused by name. Checkpoints
of earlier versions have no digests: what can be checked without is checked.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from metarun.checks import is_int, is_number, require
from metarun.files import without_nan, write_atomically, write_json
from metarun.plain_text import say
from metarun.run_files import parse_json, read_bytes
from metarun.run_folder import FORMAT, config_digests

SUFFIXES = (".safetensors", ".state")
DETAILS = ("best", "last_metric", "train_seconds", "compiled", "losses")
_warned: set[Path] = set()


class CheckpointError(ValueError):
    """A checkpoint is damaged, or not this run's; the message names the file."""


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
    config: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint, then remove its predecessor.

    Args:
        folder: `checkpoint/` of the run.
        name: `last` or `best`.
        iteration: outer steps done.
        weights: `learner.state_dict()`.
        state: tensors, numbers and containers that `torch.load(weights_only=True)` reads.
        details: JSON values for the pointer.
        config: digests of the run's configuration, `run_folder.config_digests`.

    Raises:
        OSError: it could not be written (a full disk); the previous checkpoint is still there and whole.
    """
    stem = f"{name}-{iteration:08d}"
    contiguous = {key: value.detach().contiguous().clone() for key, value in weights.items()}
    buffer = io.BytesIO()  # torch.save straight to a full disk fails with an error that does not say so
    torch.save(state, buffer)
    digests = dict(config or {})
    for suffix, content in zip(SUFFIXES, (safetensors.torch.save(contiguous), buffer.getvalue()), strict=True):
        write_atomically(folder / f"{stem}{suffix}", partial(_write, content))
        digests[f"{stem}{suffix}"] = hashlib.sha256(content).hexdigest()
    pointer = {"format": FORMAT, "iteration": iteration, "files": stem, **details, "sha256": digests}
    write_json(folder / f"{name}.json", {**pointer, "digest": digest_of(pointer)})
    half_written = folder.glob(f".{name}*")  # by processes that were killed
    for old in (*folder.glob(f"{name}-*"), *half_written):
        if old.stem != stem:
            old.unlink(missing_ok=True)


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def load(folder: Path, name: str) -> Checkpoint:
    """Read checkpoint `name` of a run's `checkpoint/` folder, onto the CPU.

    Raises:
        FileNotFoundError: there is no such checkpoint; the message names the folder.
        CheckpointError: it is damaged, or its files or the run's configuration are not those that it was written with.
    """
    details = read_pointer(folder, name)
    file = folder / f"{details['files']}.state"
    content = _read(file, details)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        require("its content", type(state).__name__, isinstance(state, dict), "a mapping")
    except Exception as error:  # torch, pickle and zipfile raise many kinds for damaged files
        raise _damaged(file, error) from error
    return Checkpoint(_weights(folder, details), state, details)


def load_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """The learner's weights of checkpoint `name`, onto the CPU; the state of the training is not looked at.

    Raises:
        FileNotFoundError, CheckpointError: as `load`.
    """
    return _weights(folder, read_pointer(folder, name))


def exists(folder: Path, name: str) -> bool:
    """Whether the folder holds a checkpoint of that name."""
    return (folder / f"{name}.json").is_file()


def is_whole(folder: Path, name: str) -> bool:
    """Whether the weights of a checkpoint can be loaded."""
    try:
        load_weights(folder, name)
    except (OSError, CheckpointError):
        return False
    return True


# ------------------------------------------------------------------------------------------------- what is checked


def read_pointer(folder: Path, name: str) -> dict[str, Any]:
    """The content of `NAME.json`.

    Raises:
        FileNotFoundError, CheckpointError: as `load`.
    """
    file = folder / f"{name}.json"
    if not file.is_file():
        raise FileNotFoundError(f"no checkpoint {name!r} in {folder}")
    try:
        details = parse_json(read_bytes(file).decode("utf-8"))
        _check_pointer(details, name)
    except (OSError, ValueError) as error:
        raise _damaged(file, error) from error
    if "sha256" not in details:
        _warn_of_no_digests(folder)
        return details
    own = {key: value for key, value in details.items() if key != "digest"}
    if details.get("digest") != digest_of(own):
        raise CheckpointError(f"{file} was changed after it was written")
    for config, digest in config_digests(folder.parent).items():
        if details["sha256"].get(config, digest) != digest:
            raise CheckpointError(f"{folder.parent / config} was changed after {file} was written, or is another run's")
    return details


def _check_pointer(details: Any, name: str) -> None:
    """Require that a pointer has what `save` writes, in the types that it writes."""
    require("its content", type(details).__name__, isinstance(details, dict), "a mapping")
    stem = details.get("files")
    require("files", stem, isinstance(stem, str) and re.fullmatch(rf"{name}-\d{{8,}}", stem), f"{name}-ITERATION")
    require("iteration", details.get("iteration"), is_int(details.get("iteration")), "an integer of at least 0")
    for key in ("best", "last_metric"):
        value = details.get(key)
        require(key, value, value is None or is_number(value), "a number or null")
    numbers = details.get("losses", [])
    require("losses", numbers, isinstance(numbers, list) and all(map(is_number, numbers)), "a list of numbers")
    seconds, compiled = details.get("train_seconds", 0.0), details.get("compiled", False)
    require("train_seconds", seconds, is_number(seconds), "a number")
    require("compiled", compiled, isinstance(compiled, bool), "true or false")
    digests = details.get("sha256", {})
    holds = isinstance(digests, dict) and all(isinstance(value, str) for value in digests.values())
    require("sha256", digests, holds, "a mapping of names to digests")


def require_details(folder: Path, details: Mapping[str, Any]) -> None:
    """Require what a run resumes from.

    Raises:
        CheckpointError: something is missing.
    """
    if missing := [key for key in DETAILS if key not in details]:
        raise CheckpointError(f"{folder / 'last.json'} is damaged (it has no {', '.join(missing)})")


def require_weights(file: Path, weights: Mapping[str, Tensor], own: Mapping[str, Tensor], precision: bool) -> None:
    """Require that weights are a learner's, before anything of it is changed.

    Args:
        file: that they are of, for messages.
        weights: as loaded.
        own: the learner's.
        precision: whether the data types must be the same, too.

    Raises:
        CheckpointError: they are not; the message names the first that differs.
    """
    if odd := sorted(set(weights) ^ set(own)):
        which = "no" if odd[0] in own else "an unknown"
        raise CheckpointError(f"{file} is of another network: it has {which} tensor {odd[0]}")
    for key, tensor in own.items():
        ours, theirs = _description(tensor), _description(weights[key])
        if ours[0] != theirs[0] or (precision and ours != theirs):
            what = "network" if ours[0] != theirs[0] else "precision"
            raise CheckpointError(f"{file} is of another {what}: {key} is {_words(theirs)}, and not {_words(ours)}")


def require_state(
    file: Path,
    saved: Checkpoint,
    optimizers: Mapping[str, torch.optim.Optimizer],
    generators: Iterable[tuple[str, ...]],
) -> None:
    """Require that a loaded state is one that these optimizers can step with: fused ones crash on other shapes.

    What the state of an optimizer consists of is found by a step of a copy.

    Args:
        file: that it is of, for messages.
        saved: the checkpoint.
        optimizers: by name; they stay as they are.
        generators: the names of each random generator, of which the state has one.

    Raises:
        CheckpointError: it is not; the message names what differs.
    """
    state, what = saved.state, ""
    try:
        iteration = saved.details["iteration"]
        require("iteration", state["iteration"], state["iteration"] == iteration, str(iteration))
        for name, optimizer in optimizers.items():
            what = f"optimizer {name}: "
            own = state["optimizers"][name]
            _compare_groups(own["param_groups"], optimizer.state_dict()["param_groups"])
            if (wanted := _stepped_state(optimizer)) is not None:
                _compare_states(own["state"], wanted)
        what = ""
        for names in generators:
            _require_generator(state["generators"], names)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file} is damaged or not of this run ({what}{_first_line(error)})") from error


def _require_generator(states: Mapping[str, Any], names: tuple[str, ...]) -> None:
    state = next((states[name] for name in names if name in states), None)
    holds = isinstance(state, Tensor) and state.dtype == torch.uint8 and state.ndim == 1
    require(f"generators.{names[0]}", _words(_description(state)), holds, "the state of a generator")


def _stepped_state(optimizer: torch.optim.Optimizer) -> dict[Any, dict[str, Any]] | None:
    """The state of a copy of an optimizer after a step; None: it steps in a way of its own."""
    twin = deepcopy(optimizer)
    twin.state.clear()
    for group in twin.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    try:
        twin.step()
    except (TypeError, RuntimeError):
        return None
    return twin.state_dict()["state"]


def _compare_groups(found: Any, wanted: list[dict[str, Any]]) -> None:
    require("param_groups", type(found).__name__, isinstance(found, list) and len(found) == len(wanted), "as many")
    for group, own in zip(found, wanted, strict=True):
        require("params", group["params"], group["params"] == own["params"], f"{own['params']}")
        for key, value in {"initial_lr": 0.0, **own}.items():
            if key != "params" and key in group:
                require(key, group[key], _is_alike(group[key], value), f"like {value!r}")


def _compare_states(found: Any, wanted: dict[Any, dict[str, Any]]) -> None:
    """A parameter that got no gradient yet has no state."""
    require("state", type(found).__name__, isinstance(found, dict) and set(found) <= set(wanted), "of its parameters")
    for index, entries in found.items():
        own = wanted[index]
        require(f"parameter {index}", sorted(entries), set(entries) == set(own), f"{sorted(own)}")
        for key, value in own.items():
            found_words, words = _words(_description(entries[key])), _words(_description(value))
            require(f"{key} of parameter {index}", found_words, found_words == words, words)


def _is_alike(value: Any, other: Any) -> bool:
    """Whether two values are of one kind: an optimizer takes its group's numbers as they are."""
    if isinstance(other, bool) or other is None:
        return value is None or isinstance(value, bool)
    if isinstance(other, int | float):
        return is_number(value)
    if isinstance(other, list | tuple):
        return isinstance(value, list | tuple) and len(value) == len(other) and all(map(_is_alike, value, other))
    return isinstance(value, type(other))


def _description(value: Any) -> tuple[Any, Any]:
    """(shape, data type) of a tensor; of another value what it is."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    return "number" if is_number(value) else type(value).__name__, None


def _words(description: tuple[Any, Any]) -> str:
    shape, dtype = description
    return str(shape) if dtype is None else f"{list(shape)} {str(dtype).removeprefix('torch.')}"


# ------------------------------------------------------------------------------------------------------- reading


def digest_of(pointer: Mapping[str, Any]) -> str:
    """SHA-256 of a pointer's content, however it is laid out."""
    return hashlib.sha256(json.dumps(without_nan(dict(pointer)), sort_keys=True).encode()).hexdigest()


def _weights(folder: Path, details: Mapping[str, Any]) -> dict[str, Tensor]:
    file = folder / f"{details['files']}.safetensors"
    content = _read(file, details)
    try:
        return safetensors.torch.load(content)
    except Exception as error:
        raise _damaged(file, error) from error


def _read(file: Path, details: Mapping[str, Any]) -> bytes:
    """A file of a checkpoint, if it is the one that the pointer was written with."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror})") from error
    if "sha256" in details and details["sha256"].get(file.name) != hashlib.sha256(content).hexdigest():
        raise CheckpointError(f"{file} is damaged, or another run's: it is not what its checkpoint was written with")
    return content


def _damaged(file: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(f"{file} is damaged ({_first_line(error)})")


def _first_line(error: BaseException) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    line = (text.splitlines() or [""])[0]
    return (f"no {line}" if isinstance(error, KeyError) else line)[:200] or type(error).__name__


def _warn_of_no_digests(folder: Path) -> None:
    if folder not in _warned:
        _warned.add(folder)
        say(f"warning: {folder} has no digests, as an earlier version wrote it: changes cannot be told")
