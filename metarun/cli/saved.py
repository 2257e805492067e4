"""What a command may take from the folder of a run or of a multirun, which somebody else may have written.

Settings of known keys, as values. No flags, nothing of Hydra's but the launcher and the sweeper with numbers and words,
no callbacks, no search path: these are typed again by whoever wants them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from metarun.experiment.choices import CHOSEN, GROUPS, SEVERAL, names, names_in, roles
from metarun.experiment.interpolations import only_names
from metarun.experiment.overrides import UsageError, key_of, quoted, read, shortened, written
from metarun.plain_text import one_line
from metarun.run_folder import leaves

NODES = (*GROUPS, "seed", "run", "paper", "setting", "role")  # what a configuration consists of
LAUNCHERS = ("basic", "fused", "joblib", "ray", "submitit_local", "submitit_slurm")
SWEEPERS = ("basic", "grid", "optuna")
LAUNCHER_KEYS = (
    *("max_replicas", "replica_micro_batch", "n_jobs", "backend", "prefer", "verbose", "timeout"),
    *("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name", "partition", "qos"),
    *("comment", "constraint", "exclude", "gres", "cpus_per_gpu", "gpus_per_task", "mem_per_gpu", "mem_per_cpu"),
    *("account", "signal_delay_s", "max_num_timeout", "array_parallelism", "stderr_to_stdout"),
    *("ray.init.num_cpus", "ray.init.num_gpus", "ray.init.address", "ray.remote.num_cpus", "ray.remote.num_gpus"),
)
SWEEPER_KEYS = ("max_batch_size", "n_trials", "n_jobs", "sampler", "seed", "storage", "study_name")
PLAIN = re.compile(r"[\w.,:/@%+=~ -]*")  # a launcher writes words into a script: nothing there may end a line
KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")


def checked(lines: Sequence[Any], file: Path, again: Sequence[Override]) -> list[str]:
    """Saved settings that may be used.

    Args:
        lines: as the file has them.
        file: where they stand, for the message.
        again: the command's own settings: what is typed again is the user's.

    Raises:
        UsageError: one may not be used, or is no setting; the message names it.
    """
    typed = {str(override.input_line) for override in again}
    known = {*NODES, *roles()}
    kept = []
    for line in lines:
        override = _setting(line, file)
        if override.input_line in typed:
            continue
        if not _is_harmless(override, known):
            raise UsageError(
                f"{file} holds {shortened(str(line))}, which a command does not take from a folder. "
                "If it is yours, type it again"
            )
        kept.append(str(override.input_line))
    return kept


def _setting(line: Any, file: Path) -> Override:
    if not isinstance(line, str) or line.startswith("-"):
        raise UsageError(f"{file} holds {shortened(str(line))}, which is no KEY=VALUE")
    try:
        return read(line)
    except UsageError as error:
        raise UsageError(f"{file} holds {shortened(line)}, which cannot be read") from error


def _is_harmless(override: Override, known: set[str]) -> bool:
    key = key_of(override)
    if override.is_hydra_override():
        return (
            not override.is_sweep_override() and _is_plain(override) and _of_launcher_or_sweeper(key, override.value())
        )
    node = re.split(r"[./@]", key)[0]
    if not only_names(str(override.input_line)):
        return False
    return node in known or bool(names(key))


def _of_launcher_or_sweeper(key: str, value: Any) -> bool:
    if key in ("hydra/launcher", "hydra/sweeper"):
        return value in (LAUNCHERS if key == "hydra/launcher" else SWEEPERS)
    if key.startswith("hydra.launcher."):
        return key.removeprefix("hydra.launcher.") in LAUNCHER_KEYS
    if key.startswith("hydra.sweeper."):
        return key.removeprefix("hydra.sweeper.") in SWEEPER_KEYS
    return key in ("hydra.sweep.dir", "hydra.mode", "hydra.verbose") or key == "hydra.sweep.subdir"


def _is_plain(override: Override) -> bool:
    value = override.value()
    if key_of(override) == "hydra.sweep.subdir":  # made of interpolations; a cell stays inside its multirun in any case
        return isinstance(value, str) and only_names(value)
    return (
        value is None
        or isinstance(value, bool | int | float)
        or (isinstance(value, str) and PLAIN.fullmatch(value) is not None)
    )


# ------------------------------------------------------------------------------------------- one run's settings


def choice_lines(choices: Mapping[str, str], without: set[str]) -> list[str]:
    """`algo=NAME`, `data=NAME`, ... as a run has chosen them.

    Args:
        choices: its choice of each group.
        without: groups that the command chooses itself.
    """
    chosen = {group: choices.get(group) for group in CHOSEN if group not in without}
    return [choice_line(group, name) for group, name in chosen.items() if name not in (None, "None", "null")]


def choice_line(group: str, choice: str) -> str:
    """`algo='maml'`, or of several choices `tracker=['wandb','tensorboard']`."""
    found = names_in(choice) if group in SEVERAL else [choice]
    return f"{group}={quoted(choice)}" if found == [choice] else f"{group}=[{','.join(map(quoted, found))}]"


def difference_lines(
    config: Mapping[str, Any], composed: Mapping[str, Any], nodes: Sequence[str], file: Path
) -> Iterator[str]:
    """Settings that make a composed configuration the saved one, in some of its nodes.

    Raises:
        UsageError: a key that cannot be a key.
    """
    there = dict(leaves(dict(composed)))
    for key, value in leaves({node: config[node] for node in nodes if node in config}):
        if key in ("run.resume", "run.evaluate", "run.init_from") or (key in there and there[key] == value):
            continue
        if not KEY.fullmatch(key):
            raise UsageError(f"{file} has a key that cannot be one: {one_line(key)!r}")
        yield f"++{key}={written(value)}"
