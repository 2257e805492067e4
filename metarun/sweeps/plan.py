"""The jobs of a multirun: a folder for each, and what of them is done already."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from metarun.experiment.choices import CHOSEN, SEVERAL
from metarun.experiment.errors import ConfigError
from metarun.experiment.interpolations import resolve_calls
from metarun.experiment.multirun import SweepJob
from metarun.experiment.overrides import UsageError, in_our_words, key_of, quoted, read, value_text
from metarun.run_folder import (
    can_resume,
    has_config,
    has_whole_config,
    holds_checkpoint,
    is_same_config,
    read_config,
    read_result,
)

LONGEST_NAME = 150


class CellError(HydraException):
    """A cell that cannot be composed; its cause says why.

    Args:
        lines: the cell's settings.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__(f"{' '.join(lines)} cannot be composed")
        self.lines = list(lines)


def assign_folders(context: HydraContext, config: DictConfig, jobs: list[SweepJob]) -> None:
    """Assign every job its folder, and see what is there already; composes them all.

    Raises:
        HydraException: a cell cannot be composed, two have one folder, or one holds another run.
    """
    arguments: Any = OmegaConf.to_container(config.hydra.overrides.hydra)  # as written: `${hydra.job.num}`, say
    named_by_us = not any(key_of(read(line)) == "hydra.sweep.subdir" for line in arguments)
    folders: dict[Path, SweepJob] = {}
    for job, name in zip(jobs, job_names([job.overrides for job in jobs]), strict=True):
        if named_by_us:
            job.overrides.append(f"hydra.sweep.subdir={quoted(name)}")
        composed = compose(context, config, job.overrides, job.number)
        require_values(composed)
        with _current(composed):
            resolve_calls(composed)
        check_values(composed)
        subdir = folder_name(composed)
        job.folder = job.sweep / subdir
        if job.sweep.absolute() not in Path(os.path.normpath(job.folder.absolute())).parents:
            raise UsageError(f"hydra.sweep.subdir must be a folder inside the multirun's; got {subdir}")
        if job.folder in folders:
            raise HydraException(
                f"two cells would run in {job.folder}: {describe(folders[job.folder])} and {describe(job)}. "
                "Each value is swept once, and hydra.sweep.subdir must tell cells apart"
            )
        if not named_by_us:  # the number may be part of it, and a launcher counts on from where it is told to
            job.overrides.append(f"hydra.sweep.subdir={quoted(subdir)}")
        folders[job.folder] = job
        job.state = state_of(job.folder, composed)


def describe(job: SweepJob) -> str:
    """Its overrides, without Hydra's own."""
    return " ".join(line for line in job.overrides if not read(line).is_hydra_override())


def compose(context: HydraContext, config: DictConfig, lines: list[str], number: int) -> DictConfig:
    """A job's configuration, as a launcher will compose it.

    Raises:
        CellError: it cannot be composed.
    """
    try:
        with in_our_words(lines):
            composed = context.config_loader.load_sweep_config(config, lines)
    except HydraException as error:
        raise CellError(lines) from error
    with open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = number
    return composed


def folder_name(composed: DictConfig) -> str:
    """Name of a job's folder in the multirun's."""
    return resolved_name(composed, "hydra.sweep.subdir")


def resolved_name(composed: DictConfig, key: str) -> str:
    """A name in Hydra's part of a configuration, which may be made of what was chosen.

    Raises:
        UsageError: it cannot be made.
    """
    with _current(composed):
        return str(OmegaConf.select(composed, key))


def require_values(composed: DictConfig) -> None:
    """Resolve every interpolation once, so that one that leads nowhere ends the command before anything starts.

    Raises:
        UsageError: a value cannot be made or stands where a run's settings belong, or a group has several choices.
    """
    if not isinstance(composed.get("run"), DictConfig):
        raise UsageError(f"run must be a group of settings, as run.iterations=100; got {composed.get('run')!r}")
    for group in CHOSEN:
        if group in SEVERAL:
            continue
        if composed.get(group) is not None and group not in composed.hydra.runtime.choices:
            raise UsageError(f"{group} must be one choice, {group}=NAME, without brackets")
    with _current(composed):
        for node in composed:
            if node != "hydra" and OmegaConf.is_config(composed._get_node(node)):
                OmegaConf.to_container(composed[node], resolve=True)
            elif node != "hydra":
                _ = composed[node]
        _ = composed.hydra.output_subdir


def check_values(composed: DictConfig) -> None:
    """Check the types and ranges of a cell's settings.

    Raises:
        UsageError: one holds what it must not.
    """
    from metarun.experiment.schema import checked  # imports torch

    try:
        checked(composed)
    except ConfigError as error:
        raise UsageError(str(error)) from error


@contextmanager
def _current(composed: DictConfig) -> Iterator[None]:
    """Inside, this configuration is what `${hydra:...}` means; what cannot be resolved is refused by name."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(composed)
    try:
        yield
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise UsageError(f"{error.full_key or 'a value'} cannot be resolved: {reason}") from error
    finally:
        HydraConfig.instance().cfg = before


def job_names(jobs: Sequence[Sequence[str]]) -> list[str]:
    """A folder's name for each job, from its overrides: the values that differ, `maml_inner_lr=0.01_seed=0`."""
    values = [{key_of(o): value_text(o) for o in map(read, lines)} for lines in jobs]
    keys = dict.fromkeys(key for own in values for key in own)
    varying = [key for key in keys if len({own.get(key) for own in values}) > 1]
    varying.sort(key=lambda key: key == "seed")  # last, as people write it
    last = [key.rpartition(".")[2] for key in varying]
    short = {key: name if last.count(name) == 1 else key for key, name in zip(varying, last, strict=True)}
    names = []
    for own in values:
        words = [value_name(key, short[key], own[key]) for key in varying if key in own]
        names.append("_".join(words) or value_name("algo", "", own.get("algo", "run")))
    return [
        shortened(name, lines) if len(name) > LONGEST_NAME or is_shared(name, lines, names, jobs) else name
        for name, lines in zip(names, jobs, strict=True)
    ]


def is_shared(name: str, lines: Sequence[str], names: Sequence[str], jobs: Sequence[Sequence[str]]) -> bool:
    """Whether another job, of other overrides, would be called the same: some letters no folder can have."""
    return any(name == other and list(lines) != list(own) for other, own in zip(names, jobs, strict=True))


def shortened(name: str, lines: Sequence[str]) -> str:
    """A name that is cut, made unique by a digest of the overrides."""
    return f"{name[: LONGEST_NAME - 9]}_{hashlib.sha256(repr(list(lines)).encode()).hexdigest()[:8]}"


def value_name(key: str, short: str, value: str) -> str:
    """`inner_lr=0.01`; of groups the choice alone, its folders by dashes."""
    text = re.sub(r"[^\w.,=+-]+", "-", value.strip("'\"[]")) or "none"
    return text if "." not in key and key != "seed" else f"{short}={text}"


def state_of(folder: Path, composed: DictConfig) -> Literal["new", "resumable", "done"]:
    """Whether a job's folder holds a run of this very configuration, and how far that got.

    Raises:
        HydraException: it holds another one.
    """
    begun = has_whole_config(folder)
    status = read_result(folder)["status"] if (folder / "result.json").exists() else None
    if status is None and not holds_checkpoint(folder) and not begun:
        return "new"
    wanted: Any = OmegaConf.to_container(composed)
    if not is_same_config(read_config(folder) if has_config(folder) else {}, wanted):
        raise HydraException(
            f"{folder} holds a run of another configuration. Name another hydra.sweep.dir, or repeat the command that "
            "it was started with to resume it"
        )
    if status in ("completed", "diverged"):
        return "done"
    return "resumable" if can_resume(folder) else "new"
