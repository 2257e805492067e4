"""A multirun's cells: every combination of what is swept, each in a folder named after what makes it different.

Before the first cell starts all are composed, so a mistyped value ends the command with nothing begun. Cells that a
folder of the same multirun already holds are not run again (completed, diverged), go on from their checkpoint
(interrupted, failed), or start anew (no checkpoint yet).
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from metarun.experiment.errors import ConfigError
from metarun.experiment.multirun import SweepJob, multirun
from metarun.experiment.overrides import UsageError, key_of, lines_of, read
from metarun.experiment.schema import check_multirun
from metarun.files import write_text
from metarun.sweeps.launchers import launch
from metarun.sweeps.plan import assign_folders, compose

log = logging.getLogger(__name__)

# Where an algorithm keeps its inner learning rate: the first of these that it has.
RATES = {"inner_lr": "algo.inner_lr={0}", "initial_rates": "algo.initial_rates=[{0},{0}]"}
STARTS_ALL_AT_ONCE = "LocalLauncher"  # submitit's: so many processes at once as there are cells


def sweep(
    context: HydraContext, config: DictConfig, launcher: Launcher, arguments: list[str], max_batch_size: int | None
) -> list[Sequence[JobReturn]]:
    """What a Hydra sweeper does: plan the cells and have the launcher run them.

    Args:
        context, config: Hydra's, of the multirun.
        launcher: runs lists of overrides.
        arguments: the command's, and the sweeper's own.
        max_batch_size: cells that the launcher gets at once; None: all.

    Raises:
        HydraException: a cell cannot be composed, two would be the same, an algorithm has no inner learning rate, or
            a folder holds something else.
    """
    check(config)
    folder = Path(config.hydra.sweep.dir)
    typed: Any = OmegaConf.to_container(config.hydra.overrides.task)  # interpolations as they are written
    with multirun.planning(folder, typed):
        combinations = grid(context, config, parsed(arguments))
        jobs = [SweepJob(number, lines, folder) for number, lines in enumerate(combinations)]
        assign_folders(context, config, jobs)
        save_config(config)
        missing = [job for job in jobs if job.state != "done"]
        multirun.make_folders(missing)
    multirun.jobs[:] = jobs
    if len(missing) < len(jobs):
        resumed = sum(job.state == "resumable" for job in missing)
        log.info(f"{len(jobs)} cells: {len(jobs) - len(missing)} are done, {resumed} resume, {len(missing)} to run")
    if max_batch_size is None and type(launcher).__name__ == STARTS_ALL_AT_ONCE:
        max_batch_size = os.cpu_count()
    size = max_batch_size or len(jobs)
    return [launch(launcher, missing[at : at + size]) for at in range(0, len(missing), size)]


def check(config: DictConfig) -> None:
    """Check the multirun's own keys.

    Raises:
        HydraException: one holds what it must not.
    """
    try:
        check_multirun(config)
    except ConfigError as error:
        raise UsageError(str(error)) from error


def save_config(config: DictConfig) -> None:
    """`multirun.yaml`, as Hydra's own sweepers leave it: what `sweep.resume` reads."""
    write_text(Path(config.hydra.sweep.dir) / "multirun.yaml", OmegaConf.to_yaml(config))


# ------------------------------------------------------------------------------------------------ what is swept


def parsed(arguments: list[str]) -> list[Override]:
    """The overrides of the cells: without `sweep=...` and `sweep.KEY=...`, which are the multirun's own."""
    return [o for o in map(read, arguments) if key_of(o) != "sweep" and not key_of(o).startswith("sweep.")]


def grid(context: HydraContext, config: DictConfig, overrides: list[Override]) -> Iterator[list[str]]:
    """The overrides of every cell.

    Raises:
        HydraException: a value that is no list of choices, or an algorithm without an inner learning rate.
    """
    values = {key_of(override): discrete_lines(override) for override in overrides}
    seeds, rates = config.sweep.seed, config.sweep.inner_lr
    if seeds is not None and "seed" not in values:
        values["seed"] = [f"seed={seed}" for seed in seeds]
    combinations = [dict(zip(values, lines, strict=True)) for lines in itertools.product(*values.values())]
    if rates is None or any(key in values for key in ("algo.inner_lr", "algo.initial_rates")):
        yield from (list(lines.values()) for lines in combinations)
        return
    forms = {}
    for lines in combinations:
        fixed = tuple(line for key, line in lines.items() if key != "seed")
        if fixed not in forms:
            forms[fixed] = form_of_rate(context, config, list(fixed))
        for rate in rates:
            yield [*lines.values(), forms[fixed].format(rate)]


def discrete_lines(override: Override) -> list[str]:
    """The override with each of its values.

    Raises:
        UsageError: it is an interval, or a sweep over nothing.
    """
    if override.is_interval_sweep():
        raise UsageError(
            f"{override.input_line}: a grid needs choices, as {key_of(override)}=1,2,3; a range to search in is for "
            "hydra/sweeper=optuna"
        )
    return lines_of(override)


def form_of_rate(context: HydraContext, config: DictConfig, lines: list[str]) -> str:
    """How the cells of an algorithm say their inner learning rate."""
    cell = compose(context, config, lines, 0)
    for key, form in RATES.items():
        if key in cell.algo:
            return form
    raise UsageError(
        f"algo={cell.hydra.runtime.choices.algo} has no inner learning rate (neither algo.{' nor algo.'.join(RATES)}): "
        "a sweep over it makes no sense"
    )


# -------------------------------------------------------------------------------------------- where the cells go
