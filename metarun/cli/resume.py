"""Commands that resume a run or a multirun, or test a run again: what they have to compose.

- `run.resume` composes next to nothing: the run is made of the configuration in its folder.
- `run.evaluate` composes the saved choices, what else the saved configuration says, then what the command says.
- `sweep.resume` composes what the multirun was started with, as far as a folder may say it (metarun/cli/saved.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarun.cli.command import Command
from metarun.cli.saved import checked, choice_lines, difference_lines
from metarun.experiment.choices import CHOSEN, GROUPS, choice_text, find
from metarun.experiment.interpolations import refuse_calls
from metarun.experiment.overrides import UsageError, choices_of, is_place, key_of, quoted, read, same_value
from metarun.run_folder import (
    CONFIG,
    HYDRA,
    holds_checkpoint,
    leaves,
    load_yaml,
    read_choices,
    read_config,
    read_multirun,
)
from metarun.sweeps.plan import require_values, resolved_name
from metarun.training.ranks import ranks

NAMED = {"run.resume": "run", "run.evaluate": "run", "run.init_from": "run", "sweep.resume": "multirun"}
OF_HYDRA = ("hydra.searchpath", "hydra.verbose", "hydra/job_logging", "hydra/hydra_logging")  # change no number


def prepared(command: Command) -> Command:
    """The command that Hydra is to carry out, with what the folder that it names says.

    Raises:
        HydraException: no run there, it is written over, a setting contradicts what the run was started with, or the
            configuration cannot be composed.
    """
    if command.flags.shell_completion or command.flags.hydra_help:
        return command
    named = {key: _named(command, key) for key in NAMED}
    if folder := named["sweep.resume"]:
        return _resumed_multirun(command, Path(folder))
    if folder := named["run.resume"]:
        return _resumed_run(command, Path(folder))
    if folder := named["run.evaluate"]:
        return _tested_again(command, Path(folder))
    config = command.compose()
    for key in ("sweep.resume", "run.resume"):
        if OmegaConf.select(config, key, throw_on_missing=False) is not None:
            raise UsageError(f"{key} is set by a file: give it on the command line, {key}=FOLDER")
    if folder := _not_empty("run.evaluate", OmegaConf.select(config, "run.evaluate")):
        return _tested_again(command, Path(folder))
    _not_empty("run.init_from", OmegaConf.select(config, "run.init_from"))
    return _as_run_or_multirun(command, config)


def _as_run_or_multirun(command: Command, config: DictConfig) -> Command:
    """With the flag of a multirun where the configuration asks for one; what is only printed is its first cell's.

    Raises:
        UsageError: several values for a single run, or one that would write over another.
    """
    several = asks_for_multirun(command, config)
    if not several and (sweeps := [o.input_line for o in command.overrides if o.is_sweep_override()]):
        raise UsageError(f"{sweeps[0]} are several values: -m runs each; as one value it needs quotes")
    if command.prints_only:
        return command.with_settings(command.first_cell).with_flags(multirun=False)
    require_values(config)
    if several:
        return command.with_flags(multirun=True, run=False)
    _refuse_used_folder(config)
    return command


def asks_for_multirun(command: Command, config: DictConfig) -> bool:
    """Whether there are several cells: by the flag, or by what is composed."""
    sweep = config.get("sweep") or {}
    by_file = any(sweep.get(key) is not None for key in ("inner_lr", "seed"))
    return command.flags.multirun or by_file or str(config.hydra.mode or "").endswith("MULTIRUN")


def _named(command: Command, key: str) -> str | None:
    """The folder that a setting of the command names; None: it names none.

    Raises:
        UsageError: it names nothing, or several.
    """
    override = command.override(key)
    if override is None or override.is_delete():
        return None
    if override.is_sweep_override():
        if key == "run.init_from":
            return None
        raise UsageError(f"{key} must be the folder of one {NAMED[key]}; got {', '.join(choices_of(override))}")
    value = override.value()
    if isinstance(value, str) and "${" in value and key != "run.init_from":
        value = OmegaConf.select(command.compose(), key)
    return _not_empty(key, value)


def _not_empty(key: str, value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise UsageError(f"{key} must be the folder of a {NAMED[key]}; got {value!r}")
    return value


# ------------------------------------------------------------------------------------------------------ one run


def saved_run(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """(configuration, choices) of a run's folder.

    Raises:
        UsageError: there is none, or it would read from this machine.
        DamagedFileError: it cannot be read.
    """
    try:
        config, choices = read_config(folder), read_choices(folder)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error
    refuse_calls(config, folder / CONFIG)
    return config, choices


def _resumed_run(command: Command, folder: Path) -> Command:
    """The run in the folder goes on there. What is composed is replaced by its own configuration when it starts."""
    if command.flags.multirun:
        raise UsageError("run.resume resumes one run; it cannot be part of a multirun (sweep.resume can)")
    config, choices = saved_run(folder)
    kept = [line for override in command.overrides for line in _on_resume(override, folder, config, choices)]
    if command.prints_only:
        return _composed_as_saved(command, folder, config, choices, kept)
    where = quoted(str(folder))
    return command.with_settings(
        [*kept, f"run.resume={where}", f"hydra.run.dir={where}", "hydra.output_subdir=null"]
    ).with_flags(run=False)


def _on_resume(
    override: Override, folder: Path, config: Mapping[str, Any], choices: Mapping[str, str]
) -> Sequence[str]:
    """What is left of a setting where a run is resumed.

    Raises:
        UsageError: it contradicts the run.
    """
    key = key_of(override)
    if key in ("run.resume", "hydra.run.dir"):
        return []
    if key in OF_HYDRA:
        return [str(override.input_line)]
    if override.is_sweep_override():
        raise UsageError(f"{override.input_line} is a sweep: run.resume resumes one run (sweep.resume a multirun)")
    if is_place(key) and key in dict(leaves(dict(config))) and not override.is_delete():
        return [f"++{key}={override.get_value_element_as_str()}"]
    iterations: Any = override.value()
    if key == "run.iterations" and _is_longer(iterations, config):
        _refuse_other_schedule(iterations, config)
        return [str(override.input_line)]
    _refuse_contradiction(override, folder, config, choices)
    return []


def _is_longer(iterations: Any, config: Mapping[str, Any]) -> bool:
    before = (config.get("run") or {}).get("iterations")
    return type(iterations) is int and type(before) is int and iterations > before


def _refuse_other_schedule(iterations: Any, config: Mapping[str, Any]) -> None:
    """Refuse more iterations where another setting follows their number: the first ones would have been others."""
    for key, value in leaves(dict(config)):
        if isinstance(value, str) and "run.iterations" in value:
            raise UsageError(
                f"run.iterations={iterations} would change {key}, which is {value}: the run would not be the one that "
                f"was started. Start a new one from its weights: run.init_from=FOLDER run.iterations={iterations}"
            )


def _refuse_contradiction(
    override: Override, folder: Path, config: Mapping[str, Any], choices: Mapping[str, str]
) -> None:
    """A resumed run is the run that was started: a setting may repeat its values, not change them."""
    key = key_of(override)
    saved = OmegaConf.create(dict(config))
    had = choices[key] if key in choices else _selected(saved, key)
    wanted = override.value()
    if key in choices:
        same = choice_text(wanted).replace("None", "null") == str(had).replace("None", "null")
    else:
        same = wanted in (had, _written(config, key))
    if override.is_delete() or not same:
        longer = "; more iterations are possible" if key == "run.iterations" else ""
        raise UsageError(
            f"{override.input_line} contradicts the run in {folder}, which has {key}={had}. A run is resumed as it was "
            f"started{longer}; other settings need a new one, with run.init_from"
        )


def _selected(config: DictConfig, key: str) -> Any:
    try:
        value = OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return None
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _written(config: Mapping[str, Any], key: str) -> Any:
    """A value as the file has it, interpolations and all; None where there is none."""
    return dict(leaves(dict(config))).get(key)


def _tested_again(command: Command, folder: Path) -> Command:
    """The run in the folder is tested again: its algorithm, its backbone and their numbers, on its data or others.

    Raises:
        UsageError: no run there, or another algorithm or backbone.
    """
    config, choices = saved_run(folder)
    for group in ("algo", "backbone"):
        override = command.override(group)
        if override is not None and override.value() != choices.get(group):
            raise UsageError(
                f"{override.input_line} contradicts run.evaluate={folder}, which tests that run's {group}="
                f"{choices.get(group)}. Its weights start another learner by run.init_from"
            )
    command = _composed_as_saved(command, folder, config, choices, command.lines)
    return _as_run_or_multirun(command, command.compose())


def _composed_as_saved(
    command: Command, folder: Path, config: Mapping[str, Any], choices: Mapping[str, str], lines: Sequence[str]
) -> Command:
    """The command with the choices of a run and what else its configuration says, then its own settings.

    What the command chooses anew comes without the old choice's keys, and other data without the published figures.
    """
    chosen = {key_of(read(line)) for line in lines}
    start = choice_lines(choices, chosen)
    _require_choices(start, folder / HYDRA)
    anew = {group for group in CHOSEN if group in chosen and choice_text(command.value(group)) != choices.get(group)}
    composed: Any = OmegaConf.to_container(command.with_settings([*start, *lines]).compose())
    nodes = [node for node in (*CHOSEN, "seed", "run", "paper") if node not in anew]
    said = {*chosen, "paper"} if "data" in anew else chosen
    differences = [
        line for line in difference_lines(config, composed, nodes, folder / CONFIG) if key_of(read(line)) not in said
    ]
    no_figure = ["paper=[]"] if "data" in anew and "paper" not in chosen else []
    return command.with_settings([*start, *differences, *no_figure, *lines])


def _require_choices(lines: Sequence[str], file: Path) -> None:
    """Refuse choices that are not there any more, and say where they came from.

    Raises:
        UsageError: one is a file of the user's own folder, which has to be named again.
    """
    for override in map(read, lines):
        group = key_of(override)
        if group not in GROUPS or override.value() is None:
            continue
        for choice in choices_of(override):
            value = read(f"{group}={choice}").value()
            if any(find(group, str(name)) is None for name in (value if isinstance(value, list) else [value])):
                raise UsageError(f"{file.parent} has {group}={choice}, which is not there{_own_folders(file)}")


def _own_folders(file: Path) -> str:
    """The folders of configuration that a run or multirun was started with, as they are typed."""
    sources = load_yaml(file.read_text())["hydra"]["runtime"].get("config_sources") or []
    flags = {"command-line": "--config-dir={0}", "hydra.searchpath in command-line": "'hydra.searchpath=[{1}://{0}]'"}
    typed = [
        flags[source["provider"]].format(source["path"], source["schema"])
        for source in sources
        if source["provider"] in flags
    ]
    return f". It was started with {' '.join(typed)}: type that again" if typed else ""


def _refuse_used_folder(config: DictConfig) -> None:
    """A folder that holds a run is not written into by another one, however it is named."""
    folder = Path(resolved_name(config, "hydra.run.dir"))
    if not ranks().rank and holds_checkpoint(folder):
        raise UsageError(
            f"hydra.run.dir={folder} holds a run already. Name another folder, or resume it: run.resume={folder}"
        )


# --------------------------------------------------------------------------------------------------- a multirun


def _resumed_multirun(command: Command, folder: Path) -> Command:
    """The multirun in the folder goes on there; with another launcher, and with data that moved."""
    file = folder / "multirun.yaml"
    try:
        saved = read_multirun(folder)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error
    before = [read(line) for line in checked([*saved["hydra"], *saved["task"]], file, command.overrides)]
    _require_choices([str(override.input_line) for override in before if not override.is_delete()], file)
    own = [override for override in command.overrides if _on_resume_of_multirun(override, saved, before, folder)]
    anew = {key_of(override) for override in own} | {"hydra.sweep.dir", "hydra.mode"}
    other_launcher = "hydra/launcher" in anew
    kept = [
        override
        for override in before
        if key_of(override) not in anew and not (other_launcher and key_of(override).startswith("hydra.launcher."))
    ]
    lines = [str(override.input_line) for override in [*kept, *own]]
    command = command.with_settings([*lines, f"hydra.sweep.dir={quoted(str(folder))}"])
    if command.prints_only:
        return command.with_settings(command.first_cell).with_flags(multirun=False)
    return command.with_flags(multirun=True, run=False)


def _on_resume_of_multirun(
    override: Override, saved: Mapping[str, Sequence[str]], before: Sequence[Override], folder: Path
) -> bool:
    """Whether a setting adds to what a multirun was started with.

    Raises:
        UsageError: it contradicts that.
    """
    key = key_of(override)
    if key in ("sweep.resume", "hydra.sweep.dir", "hydra.mode"):
        return False
    if key.startswith(("hydra.launcher.", "hydra/launcher")) or key in OF_HYDRA or is_place(key):
        return True
    had = next((other for other in reversed(before) if key_of(other) == key), None)
    if had is None and str(override.input_line) in (*saved["task"], *saved["hydra"]):
        return True  # a setting that a folder may not bring, typed again
    if had is None or not same_value(override, had):
        start = had.input_line if had is not None else " ".join(saved["task"])
        raise UsageError(
            f"{override.input_line} contradicts the multirun in {folder}, which was started with {start}. "
            "It is resumed as it was started"
        )
    return False
