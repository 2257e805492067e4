"""Commands that resume a run or a multirun, or test a run again: what it was started with comes first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from metarun.run_folder import holds_checkpoint, read_choices, read_config, read_multirun, read_overrides
from metarun.sweeps.plan import quoted
from metarun.training.ranks import ranks

MULTIRUN = {"-m", "--multirun"}
SHOWING = {"-c", "--cfg", "-i", "--info", "-h", "--help", "--hydra-help", "-sc", "--shell-completion"}


def with_saved_overrides(arguments: list[str]) -> list[str]:
    """The arguments, after those that a run or multirun was started with, where the command names one.

    Raises:
        HydraException: no run there, or an override contradicts what the run was started with.
    """
    values = {key: value for key, value in map(split, arguments) if value is not None}
    named = {key: path for key in ("run.resume", "sweep.resume", "run.evaluate") if (path := values.get(key))}
    named = {key: path for key, path in named.items() if path != "null"}
    if path := named.get("sweep.resume"):
        return _with_saved_multirun(arguments, values, Path(path))
    if not named:
        _refuse_used_folder(values)
        shorthand = values.get("sweep", "null") not in ("null", "") and not SHOWING & set(arguments)
        if is_multirun(arguments) or shorthand:
            # Hydra takes the flag at the front only
            return ["--multirun", *(entry for entry in arguments if entry not in MULTIRUN)]
        return arguments
    path = named.get("run.resume") or named["run.evaluate"]
    folder = Path(path)
    try:
        config, choices = read_config(folder), read_choices(folder)
    except FileNotFoundError as error:
        raise HydraException(str(error)) from error
    saved = [e for e in read_overrides(folder) if not e.startswith(("run.resume=", "run.evaluate=", "hydra."))]
    if "run.resume" not in named:
        return [*(entry for entry in saved if split(entry)[0].lstrip("+~") not in values), *arguments]
    _refuse_contradiction(folder, config, choices, {k: v for k, v in values.items() if k != "run.resume"})
    if is_multirun(arguments):
        raise HydraException("run.resume resumes one run; it cannot be part of a multirun (sweep.resume can)")
    flags = [entry for entry in arguments if entry.startswith("-")]
    where = quoted(path)
    return [*flags, *saved, f"run.resume={where}", f"hydra.run.dir={where}", "hydra.output_subdir=null"]


def split(argument: str) -> tuple[str, str | None]:
    """(key, value) of an override; (argument, None) of a flag."""
    key, equals, value = argument.partition("=")
    return (key, value) if equals and not argument.startswith("-") else (argument, None)


def is_multirun(arguments: list[str]) -> bool:
    """Whether a command asks for a multirun by its flag."""
    return bool(MULTIRUN & set(arguments))


def _with_saved_multirun(arguments: list[str], values: dict[str, str], folder: Path) -> list[str]:
    """Arguments that resume the multirun in a folder; another launcher may do so."""
    try:
        saved = read_multirun(folder)
    except FileNotFoundError as error:
        raise HydraException(str(error)) from error
    before = dict(map(split, saved["task"]))
    for key, value in values.items():
        free = key == "sweep.resume" or key.startswith(("hydra.launcher.", "hydra/launcher"))
        if not free and before.get(key) != value:
            had = f"{key}={before[key]}" if key in before else " ".join(saved["task"])
            raise HydraException(
                f"{key}={value} contradicts the multirun in {folder}, which was started with {had}. "
                "It is resumed as it was started"
            )
    other_launcher = "hydra/launcher" in values
    kept = [
        entry
        for entry in saved["hydra"]
        if not entry.startswith(("hydra.mode=", "hydra.sweep.dir="))
        and not (other_launcher and entry.startswith(("hydra/launcher=", "hydra.launcher.")))
        and split(entry)[0] not in values
    ]
    hydras = [entry for entry in arguments if entry.startswith(("hydra/", "hydra."))]
    flags = [entry for entry in arguments if entry.startswith("-") and entry not in MULTIRUN]
    return ["--multirun", *flags, *kept, *hydras, *saved["task"], f"hydra.sweep.dir={quoted(str(folder))}"]


def _refuse_used_folder(values: dict[str, str]) -> None:
    """Hydra would write over the configuration of the run in a folder that is named once more."""
    folder = values.get("hydra.run.dir")
    if folder and not ranks().rank and holds_checkpoint(Path(folder)):
        raise HydraException(
            f"hydra.run.dir={folder} holds a run already. Name another folder, or resume it: run.resume={folder}"
        )


def _refuse_contradiction(
    folder: Path, config: dict[str, Any], choices: dict[str, str], overrides: dict[str, str]
) -> None:
    """A resumed run is the run that was started: an override may repeat its values, not change them."""
    saved = OmegaConf.create(config)
    for key, text in overrides.items():
        had = choices[key] if key in choices else OmegaConf.select(saved, key)
        wanted = OverridesParser.create().parse_override(f"{key}={text}").value()
        if had != wanted:
            raise HydraException(
                f"{key}={text} contradicts the run in {folder}, which has {key}={had}. "
                "A run is resumed as it was started; other settings need a new one, with run.init_from"
            )
