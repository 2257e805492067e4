"""What Hydra does for a command: run, multirun, or print something."""

from __future__ import annotations

from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.utils import get_args_parser
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode, TaskFunction

from metarun.cli.command import Command, started_hydra


def carry_out(command: Command, run_job: TaskFunction) -> None:
    """Carry out a command.

    Args:
        command: the command.
        run_job: one run.

    Raises:
        HydraException: it cannot be composed.
    """
    with started_hydra() as hydra:
        if command.prints_only:
            print_what_is_asked(hydra, command)
        elif command.flags.multirun:
            run_cells(hydra, command, run_job)
        else:
            hydra.run(config_name=command.config_name, task_function=run_job, overrides=command.lines)


def print_what_is_asked(hydra: Any, command: Command) -> None:
    """`--cfg`, `--info`, `--hydra-help`, `--shell-completion`."""
    flags, name = command.flags, command.config_name
    if flags.hydra_help:
        hydra.hydra_help(config_name=name, args_parser=get_args_parser(), args=flags)
    elif flags.shell_completion:
        hydra.shell_completion(config_name=name, overrides=flags.overrides)
    elif flags.cfg:
        hydra.show_cfg(
            config_name=name,
            overrides=command.lines,
            cfg_type=flags.cfg,
            package=flags.package,
            resolve=flags.resolve,
        )
    else:
        hydra.show_info(flags.info, config_name=name, overrides=command.lines, run_mode=RunMode.RUN)


def run_cells(hydra: Any, command: Command, run_job: TaskFunction) -> None:
    """A multirun. Unlike `Hydra.multirun`, what all cells share is composed with the choices of the first: with Hydra's
    defaults in their place a key that only `data=A,B` has would be unknown.
    """
    config = hydra.compose_config(
        config_name=command.config_name,
        overrides=[*command.first_cell, "hydra.mode=MULTIRUN"],  # which its cells are composed with, too
        with_log_configuration=True,
        run_mode=RunMode.MULTIRUN,
    )
    config.hydra.overrides.task = command.task_lines
    callbacks = Callbacks(config)
    callbacks.on_multirun_start(config=config, config_name=command.config_name)
    sweeper = Plugins.instance().instantiate_sweeper(
        config=config,
        hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=callbacks),
        task_function=run_job,
    )
    sweeper.sweep(arguments=command.task_lines)
    callbacks.on_multirun_end(config=config, config_name=command.config_name)
