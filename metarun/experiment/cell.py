"""One run as the command line composed it, and what becomes of it whichever launcher runs it."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from metarun.experiment.multirun import multirun, remove_unused
from metarun.files import write_json
from metarun.run_folder import FORMAT, can_resume


@dataclass
class RunSpec:
    """One run as the command line composed it.

    Attributes:
        cfg: the composed configuration (of a resumed run: the saved one, with `run.resume` set).
        choices: the chosen name of each group.
        folder: the run's folder.
        overrides: what the command line changed.
        sweep: name of the multirun that it belongs to; None: none.
    """

    cfg: DictConfig
    choices: dict[str, str]
    folder: Path
    overrides: list[str]
    sweep: str | None = None

    @property
    def title(self) -> str:
        return f"{self.choices['algo']} on {self.choices['data']}"


def composed_spec(cfg: DictConfig) -> RunSpec:
    """The run that Hydra has just composed."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its font cache
    context = HydraConfig.get()
    sweep = Path(context.sweep.dir).name if context.mode == RunMode.MULTIRUN else None
    choices = {str(group): str(name) for group, name in context.runtime.choices.items()}
    folder = Path(context.runtime.output_dir)
    if sweep is not None and can_resume(folder):
        cfg.run.resume = str(folder)
    return RunSpec(cfg, choices, folder, list(context.overrides.task), sweep)


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
    """Say why a run is refused, and remove what Hydra made for it.

    The error is not raised: Hydra would print more, and end a multirun.
    """
    if not silent:
        print(f"metarun: {why}", file=sys.stderr)
    if spec.sweep is not None:
        record_failure(spec, {"error": str(why), "refused": True})
    elif not spec.cfg.run.resume:
        remove_unused(spec.folder)
    return {"exit_status": 2, "mean": None}


def record_failure(spec: RunSpec, details: dict[str, Any]) -> None:
    """Write the `result.json` of a multirun's job that ended before it could write one."""
    result: dict[str, Any] = {name: spec.choices.get(name) for name in ("algo", "data", "backbone")}
    result |= {"seed": spec.cfg.get("seed"), "overrides": spec.overrides, "mean": None}
    write_json(spec.folder / "result.json", {"format": FORMAT, "status": "failed", **result, **details})
