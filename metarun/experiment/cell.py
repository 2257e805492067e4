"""One run as the command line composed it, and what becomes of it whichever launcher runs it.

Hydra writes nothing into a run's folder (conf/config.yaml): what it was composed of is written here, once and whole,
after the folder is held and before anything else.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from metarun.experiment.choices import keep_several
from metarun.experiment.claim import FolderError, claim, reason, unusable
from metarun.experiment.errors import ConfigError
from metarun.experiment.interpolations import resolve_calls
from metarun.experiment.multirun import multirun
from metarun.experiment.overrides import is_place, key_of, read
from metarun.experiment.schema import check_output
from metarun.files import remove_leftovers, write_json, write_text
from metarun.plain_text import say
from metarun.run_folder import (
    CONFIG,
    FORMAT,
    HYDRA,
    OVERRIDES,
    can_resume,
    has_whole_config,
    holds_result,
    is_same_config,
    read_config,
    read_overrides,
)
from metarun.training.ranks import ranks


@dataclass
class RunSpec:
    """One run as the command line composed it.

    Attributes:
        cfg: the composed configuration (of a resumed run: the saved one, with `run.resume` set).
        choices: the chosen name of each group.
        folder: the run's folder.
        overrides: what the command line changed.
        sweep: name of the multirun that it belongs to; None: none.
        files: what it was composed of, as its folder keeps it: texts by name in the folder.
    """

    cfg: DictConfig
    choices: dict[str, str]
    folder: Path
    overrides: list[str]
    sweep: str | None = None
    files: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.choices['algo']} on {self.choices['data']}"


class HoldFolder(Callback):
    """Hydra's callback, named in conf/config.yaml: the folder of a single run is claimed before Hydra makes it."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Hydra would turn an exception here into a warning, and go on."""
        if ranks().rank:
            return
        try:
            check_output(config.hydra.output_subdir)
            folder = run_folder(config)
            resumed = OmegaConf.select(config, "run.resume")
            if resumed and Path(resumed).resolve() != folder.resolve():
                raise FolderError(f"run.resume must be the folder of the run, {folder}; got {resumed}")
            multirun.claim(folder, "hydra.run.dir")
        except ConfigError as error:
            say(error)
            raise SystemExit(2) from error


def run_folder(config: DictConfig) -> Path:
    """`hydra.run.dir` of what is about to run, interpolations resolved."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        return Path(str(config.hydra.run.dir)).absolute()
    finally:
        HydraConfig.instance().cfg = before


def composed_spec(cfg: DictConfig) -> RunSpec:
    """The run that Hydra has just composed."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its font cache
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, would print a traceback for a line
    context = HydraConfig.get()
    sweep = Path(context.sweep.dir).name if context.mode == RunMode.MULTIRUN else None
    task = [read(line) for line in context.overrides.task]
    whole: Any = HydraConfig.instance().cfg
    keep_several(whole.hydra, cfg, {key_of(o): o.value() for o in task})
    context = HydraConfig.get()
    choices = {str(group): str(name) for group, name in context.runtime.choices.items()}
    folder = Path(context.runtime.output_dir)
    resolve_calls(cfg)
    files = {
        str(CONFIG): OmegaConf.to_yaml(cfg),
        str(HYDRA): OmegaConf.to_yaml(HydraConfig.instance().cfg),
        str(OVERRIDES): OmegaConf.to_yaml(context.overrides.task),
    }
    if sweep is not None and can_resume(folder):
        cfg.run.resume = str(folder)
    return RunSpec(cfg, choices, folder, list(context.overrides.task), sweep, files)


def take_saved_configuration(spec: RunSpec) -> None:
    """Make a run that resumes the one in its folder: its configuration, with more iterations or moved data if said.

    Raises:
        ConfigError: there is no run in that folder.
    """
    from metarun.experiment.build import saved_config  # torch takes seconds

    path, said = spec.cfg.run.resume, [read(line) for line in spec.overrides]
    if ranks().rank:
        spec.folder = Path(path)  # Hydra's is a place of this process's own
    spec.cfg, spec.choices = saved_config(spec.folder)
    spec.overrides = [line for line in read_overrides(spec.folder) if key_of(read(line)) != "run.resume"]
    for override in said:
        if is_place(key_of(override)) or key_of(override) == "run.iterations":
            OmegaConf.update(spec.cfg, key_of(override), override.value(), force_add=True)
    spec.cfg.run.resume = path


@contextmanager
def holding(spec: RunSpec) -> Iterator[None]:
    """Inside, the run's folder is this process's, and what it was composed of is kept there.

    Of the processes that torchrun started the first holds it.

    Raises:
        FolderError: another process works there, it holds another run, or it cannot be written.
    """
    if ranks().rank:
        yield
        return
    own = None if multirun.holds(spec.folder) else claim(spec.folder, "hydra.sweep.dir")
    try:
        try:
            begin(spec)
        except OSError as error:
            raise unusable(spec.folder, "hydra.run.dir" if own is None else "hydra.sweep.dir", error) from error
        yield
    finally:
        if own is not None:
            own.release()


def begin(spec: RunSpec) -> None:
    """Keep what a run was composed of, unless it is kept already.

    Raises:
        FolderError: the folder holds another run, or nobody knows which.
        OSError: it cannot be written.
    """
    folder = spec.folder
    whole = has_whole_config(folder)
    if not spec.cfg.run.resume:
        refuse_other_run(spec, whole)
    remove_leftovers(folder)
    if whole or not spec.files:
        return
    temporary = folder / f".hydra.{secrets.token_hex(4)}"
    for name, text in spec.files.items():
        write_text(temporary / Path(name).name, text)
    target = folder / CONFIG.parent
    if target.exists():  # half-written, by an earlier version that was killed: the run never began
        shutil.rmtree(target)
    os.replace(temporary, target)


def refuse_other_run(spec: RunSpec, whole: bool) -> None:
    """Refuse a new run in the folder of another one; the same may begin again where it has not come to anything.

    Args:
        whole: whether the folder says what the run there was composed of.

    Raises:
        FolderError: there is another.
    """
    folder = spec.folder
    key = "hydra.run.dir" if spec.sweep is None else "hydra.sweep.dir"
    if (folder / "multirun.yaml").exists():
        raise FolderError(f"{key}={folder} holds a multirun. Name another folder, or resume it: sweep.resume={folder}")
    wanted: Any = OmegaConf.to_container(spec.cfg)
    if holds_result(folder) or (whole and not is_same_config(read_config(folder), wanted)):
        raise FolderError(f"{key}={folder} holds a run already. Name another folder, or resume it: run.resume={folder}")


def record_exit(spec: RunSpec, result: dict[str, Any]) -> float | None:
    """Keep the exit status of a run that has ended.

    Returns:
        Its headline metric on the test tasks, which Hydra takes for the job's value.

    Raises:
        KeyboardInterrupt: a signal stopped a job of a multirun: it is meant for the whole multirun.
    """
    multirun.exit_statuses.append(result["exit_status"])
    if spec.sweep is not None and result["exit_status"] > 128:
        raise KeyboardInterrupt
    return result["mean"]


def refuse(spec: RunSpec, why: object, silent: bool = False) -> dict[str, Any]:
    """Say why a run is refused, once for all cells that are for the same reason, and remove what was made for it.

    The error is not raised: Hydra would print more, and end a multirun.
    """
    if not silent and str(why) not in multirun.refusals:
        multirun.refusals.add(str(why))
        say(why)
    if spec.sweep is None:
        multirun.withdraw(spec.folder)
    elif not isinstance(why, FolderError):  # else the folder is another's, or cannot be written
        record_failure(spec, {"error": str(why), "refused": True})
    return {"exit_status": 2, "mean": None}


def record_failure(spec: RunSpec, details: dict[str, Any]) -> None:
    """Write the `result.json` of a multirun's job that ended before it could write one, as far as the disk takes it."""
    result: dict[str, Any] = {name: spec.choices.get(name) for name in ("algo", "data", "backbone")}
    result |= {"seed": spec.cfg.get("seed"), "overrides": spec.overrides, "mean": None}
    try:
        write_json(spec.folder / "result.json", {"format": FORMAT, "status": "failed", **result, **details})
    except OSError as error:
        say(f"cannot write {spec.folder / 'result.json'}: {reason(error)}")
