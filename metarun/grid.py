"""A multirun's cells: every combination of what is swept, each in a folder named after what makes it different.

Before the first cell starts all are composed, so a mistyped value ends the command with nothing begun. Cells that a
folder of the same multirun already holds are not run again (completed, diverged), go on from their checkpoint
(interrupted, failed), or start anew (no checkpoint yet).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from metarun.launch import launch
from metarun.results import write_text

log = logging.getLogger(__name__)

# Where an algorithm keeps its inner learning rate: the first of these that it has.
RATES = {"inner_lr": "algo.inner_lr={0}", "initial_rates": "algo.initial_rates=[{0},{0}]"}
LONGEST_NAME = 150
STARTS_ALL_AT_ONCE = "LocalLauncher"  # submitit's: so many processes at once as there are cells


@dataclass
class Planned:
    """One cell of a multirun.

    Attributes:
        number: its place in the grid, from 0; Hydra's job number.
        overrides: `key=value`, as on a command line.
        sweep: the multirun's folder.
        folder: where it runs.
        state: `new`, `begun` (goes on from its checkpoint) or `done`.
    """

    number: int
    overrides: list[str]
    sweep: Path
    folder: Path = Path()
    state: str = "new"


planned: list[Planned] = []  # of the multirun under way in this process


def sweep(
    context: HydraContext, config: DictConfig, launcher: Launcher, arguments: list[str], most: int | None
) -> list[Sequence[JobReturn]]:
    """What a Hydra sweeper does: plan the cells and have the launcher run them.

    Args:
        context, config: Hydra's, of the multirun.
        launcher: runs lists of overrides.
        arguments: the command's, and the sweeper's own.
        most: cells that the launcher gets at once; None: all.

    Raises:
        HydraException: a cell cannot be composed, two would be the same, an algorithm has no inner learning rate, or
            a folder holds something else.
    """
    where = Path(config.hydra.sweep.dir)
    cells = [
        Planned(number, lines, where) for number, lines in enumerate(grid(context, config, parsed(context, arguments)))
    ]
    place(context, config, cells)
    planned[:] = cells
    save_config(config)
    missing = [cell for cell in cells if cell.state != "done"]
    if len(missing) < len(cells):
        begun = sum(cell.state == "begun" for cell in missing)
        log.info(f"{len(cells)} cells: {len(cells) - len(missing)} are done, {begun} go on, {len(missing)} to run")
    if most is None and type(launcher).__name__ == STARTS_ALL_AT_ONCE:
        most = os.cpu_count()
    returns = []
    for at in range(0, len(missing), most or len(cells)):
        batch = missing[at : at + (most or len(cells))]
        returns.append(launch(launcher, batch))
    return returns


def save_config(config: DictConfig) -> None:
    """`multirun.yaml`, as Hydra's own sweepers leave it: what `sweep.resume` reads."""
    write_text(Path(config.hydra.sweep.dir) / "multirun.yaml", OmegaConf.to_yaml(config))


# ------------------------------------------------------------------------------------------------ what is swept


def parsed(context: HydraContext, arguments: list[str]) -> list[Override]:
    """The overrides of the cells: without `sweep=...` and `sweep.KEY=...`, which are the multirun's own."""
    overrides = OverridesParser.create(config_loader=context.config_loader).parse_overrides(arguments)
    return [o for o in overrides if o.get_key_element() != "sweep" and not o.get_key_element().startswith("sweep.")]


def grid(context: HydraContext, config: DictConfig, overrides: list[Override]) -> Iterator[list[str]]:
    """The overrides of every cell.

    Raises:
        HydraException: a value that is no list of choices, or an algorithm without an inner learning rate.
    """
    values: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        values[key] = [f"{key}={value}" for value in choices_of(override)]
    if config.sweep.seed is not None and "seed" not in values:
        values["seed"] = [f"seed={seed}" for seed in config.sweep.seed]
    combinations = [list(lines) for lines in itertools.product(*values.values())]
    rates = config.sweep.inner_lr
    if rates is None or any(key in values for key in ("algo.inner_lr", "algo.initial_rates")):
        yield from combinations
        return
    forms = {}
    for lines in combinations:
        fixed = tuple(line for line in lines if not line.startswith("seed="))
        if fixed not in forms:
            forms[fixed] = form_of_rate(context, config, list(fixed))
        for rate in rates:
            yield [*lines, forms[fixed].format(rate)]


def choices_of(override: Override) -> list[str]:
    """The values of an override, as they stand on a command line."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise HydraException(
            f"{override.input_line}: a grid needs choices, as {override.get_key_element()}=1,2,3; a range to search in "
            "is for hydra/sweeper=optuna"
        )
    return list(override.sweep_string_iterator())


def form_of_rate(context: HydraContext, config: DictConfig, lines: list[str]) -> str:
    """How the cells of an algorithm say their inner learning rate."""
    cell = compose(context, config, lines, 0)
    for key, form in RATES.items():
        if key in cell.algo:
            return form
    raise HydraException(
        f"algo={cell.hydra.runtime.choices.algo} has no inner learning rate (neither algo.{' nor algo.'.join(RATES)}): "
        "a sweep over it makes no sense"
    )


# -------------------------------------------------------------------------------------------- where the cells go


def place(context: HydraContext, config: DictConfig, cells: list[Planned]) -> None:
    """Give every cell its folder, and see what is there already; composes them all.

    Raises:
        HydraException: a cell cannot be composed, two have one folder, or one holds another run.
    """
    given: Any = OmegaConf.to_container(config.hydra.overrides.hydra)  # as written: one may be `${hydra.job.num}`
    named = not any(line.startswith("hydra.sweep.subdir=") for line in given)
    names = cell_names([cell.overrides for cell in cells])
    folders: dict[Path, Planned] = {}
    for cell, name in zip(cells, names, strict=True):
        if named:
            cell.overrides.append(f"hydra.sweep.subdir={quoted(name)}")
        composed = compose(context, config, cell.overrides, cell.number)
        subdir = folder_name(composed)
        cell.folder = cell.sweep / subdir
        if cell.folder in folders:
            raise HydraException(
                f"two cells would run in {cell.folder}: {said(folders[cell.folder])} and {said(cell)}. "
                "Each value is swept once, and hydra.sweep.subdir must tell cells apart"
            )
        if not named:  # the number may be part of it, and a launcher counts on from where it is told to
            cell.overrides.append(f"hydra.sweep.subdir={quoted(subdir)}")
        folders[cell.folder] = cell
        cell.state = state_of(cell.folder, composed)


def said(cell: Planned) -> str:
    return " ".join(line for line in cell.overrides if not line.startswith("hydra."))


def compose(context: HydraContext, config: DictConfig, lines: list[str], number: int) -> DictConfig:
    """A cell's configuration, as a launcher will compose it."""
    cell = context.config_loader.load_sweep_config(config, lines)
    with open_dict(cell):
        cell.hydra.job.id = cell.hydra.job.num = number
    return cell


def quoted(text: str) -> str:
    """A value that holds what means something to Hydra, for an override."""
    return "'" + text.replace("'", r"\'") + "'"


def folder_name(cell: DictConfig) -> str:
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cell)  # the folder's name may be made of what it chose
    try:
        return str(cell.hydra.sweep.subdir)
    finally:
        HydraConfig.instance().cfg = before


def cell_names(cells: Sequence[Sequence[str]]) -> list[str]:
    """A folder's name for each cell: the values that differ between cells, `maml_inner_lr=0.01_seed=0`."""
    values = [dict(line.split("=", 1) for line in lines) for lines in cells]
    keys = dict.fromkeys(key for own in values for key in own)
    varying = [key for key in keys if len({own.get(key) for own in values}) > 1]
    varying.sort(key=lambda key: key == "seed")  # last, as people write it
    last = [key.lstrip("+~").rpartition(".")[2] for key in varying]
    short = dict(zip(varying, last, strict=True))
    short = {key: name if last.count(name) == 1 else key for key, name in short.items()}
    names = []
    for own in values:
        words = [value_name(key, short[key], own[key]) for key in varying if key in own]
        names.append("_".join(words) or value_name("algo", "", own.get("algo", "run")))
    return [
        shortened(name, lines) if len(name) > LONGEST_NAME or is_shared(name, lines, names, cells) else name
        for name, lines in zip(names, cells, strict=True)
    ]


def is_shared(name: str, lines: Sequence[str], names: Sequence[str], cells: Sequence[Sequence[str]]) -> bool:
    """Whether another cell, of other overrides, would be called the same: some letters no folder can have."""
    return any(name == other and list(lines) != list(own) for other, own in zip(names, cells, strict=True))


def shortened(name: str, lines: Sequence[str]) -> str:
    return f"{name[: LONGEST_NAME - 9]}_{hashlib.sha256(repr(list(lines)).encode()).hexdigest()[:8]}"


def value_name(key: str, short: str, value: str) -> str:
    """`inner_lr=0.01`; of groups the choice alone, its folders by dashes."""
    text = re.sub(r"[^\w.,=+-]+", "-", value.strip("'\"[]")) or "none"
    return text if "." not in key and key != "seed" else f"{short}={text}"


def state_of(folder: Path, composed: DictConfig) -> str:
    """Whether a cell's folder holds a run of this very configuration, and how far that got.

    Raises:
        HydraException: it holds another one.
    """
    status = status_of(folder)
    if status is None and not (folder / "checkpoint").is_dir():
        return "new"
    own = {key: value for key, value in OmegaConf.to_container(composed).items() if key not in ("hydra", "sweep")}  # type: ignore[union-attr]
    saved_file = folder / ".hydra" / "config.yaml"
    saved: Any = OmegaConf.to_container(OmegaConf.load(saved_file)) if saved_file.is_file() else {}
    saved.pop("sweep", None)
    if saved != own:
        raise HydraException(
            f"{folder} holds a run of another configuration. Name another hydra.sweep.dir, or repeat the command that "
            "it was started with to go on"
        )
    if status in ("completed", "diverged"):
        return "done"
    return "begun" if goes_on(folder) else "new"


def goes_on(folder: Path) -> bool:
    """Whether a cell that starts in this folder goes on from a checkpoint there."""
    return (folder / "checkpoint").is_dir() and status_of(folder) not in ("completed", "diverged")


def status_of(folder: Path) -> str | None:
    """`status` of a run's result; None where there is none, or none that can be read."""
    return read_status(folder).get("status")


def all_refused() -> bool:
    """Whether no cell of the multirun could start."""
    return all(read_status(cell.folder).get("refused") for cell in planned)


def read_status(folder: Path) -> dict[str, Any]:
    """`result.json`; empty where there is none, or none that can be read."""
    try:
        found = json.loads((folder / "result.json").read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}
