"""The `metarun` command: Hydra's, with our words where it is mistyped.

Exit status: 0 completed, 1 failed, 2 refused before starting, 3 diverged, 129, 130 and 143 interrupted; a multirun
1 if any run failed, else 3 if any diverged.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from omegaconf import DictConfig, OmegaConf

from metarun.cli.command import Command
from metarun.cli.errors import explain, is_users_fault
from metarun.cli.help import help_text, version_text
from metarun.cli.hydra_commands import carry_out
from metarun.cli.resume import prepared
from metarun.cli.startup import import_for
from metarun.experiment.cell import (
    composed_spec,
    holding,
    record_exit,
    record_failure,
    refuse,
    take_saved_configuration,
)
from metarun.experiment.multirun import multirun
from metarun.experiment.overrides import UsageError, key_of, quoted
from metarun.experiment.plugins import missing_plugins
from metarun.experiment.signals import no_interrupt_is_lost, stopping_signals
from metarun.plain_text import say
from metarun.training.ranks import ranks

OmegaConf.register_new_resolver("metarun_name", lambda name: name.replace("/", "-"), replace=True)


def run_job(cfg: DictConfig) -> float | None:
    """One run, as Hydra calls it."""
    spec = composed_spec(cfg)
    import_for(cfg)
    from metarun.experiment.errors import ConfigError  # these import torch, which --help must not wait for
    from metarun.experiment.run import run, run_worker

    try:
        if cfg.run.resume and spec.sweep is None:
            take_saved_configuration(spec)
        with holding(spec):
            result = run_worker(spec) if ranks().rank else run(spec)
    except ConfigError as error:
        result = refuse(spec, error, silent=bool(ranks().rank))
    except Exception as error:  # of a single run Hydra shows it; a multirun's other jobs go on
        if spec.sweep is None:
            raise
        logging.getLogger(__name__).exception("the cell failed")
        record_failure(spec, {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()})
        result = {"exit_status": 1, "mean": None}
    return record_exit(spec, result)


def main() -> NoReturn:
    """Entry point of the console script; never returns."""
    try:
        _main()
    finally:
        multirun.release()


def _main() -> NoReturn:
    show_traceback = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and what is printed is ours to say
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    multirun.clear()
    _refuse_wrong_ranks()
    command = None
    try:
        with _stopping_signals_told():
            command = Command.typed()
            _answer_at_once(command)
            command = prepared(command)
            with no_interrupt_is_lost(), _folder_of_this_process(command) as command:
                carry_out(command, run_job)
    except KeyboardInterrupt:
        _say_how_to_resume()
        sys.exit(next((status for status in multirun.exit_statuses if status > 128), 130))
    except Exception as error:
        if show_traceback or not is_users_fault(error):
            raise
        if not ranks().rank:
            say(explain(error, command))
        sys.exit(2)
    status = multirun.exit_status()
    if multirun.all_refused():
        multirun.remove_refused()
    sys.exit(status)


@contextmanager
def _stopping_signals_told() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP end the command as Ctrl-C does."""
    before = {number: signal.signal(number, _terminated) for number in stopping_signals() if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _answer_at_once(command: Command) -> None:
    """`--help`, for which Hydra would first list every file of conf/, `--version`, and plug-ins that are gone."""
    if command.flags.help or command.flags.version:
        print(help_text() if command.flags.help else version_text())
        sys.exit(0)
    for package in missing_plugins():
        say(f"the plug-in {package} is named by an installed package, but is not there")


def _refuse_wrong_ranks() -> None:
    """End where the environment is not as torchrun sets it; all that follows reads it."""
    try:
        ranks()
    except ValueError as error:
        say(error)
        sys.exit(2)


@contextmanager
def _folder_of_this_process(command: Command) -> Iterator[Command]:
    """Of the processes that torchrun started the first has the run's folder; inside, another has a temporary one.

    Raises:
        UsageError: a multirun.
    """
    if ranks().world_size > 1 and command.flags.multirun:
        raise UsageError(
            "torchrun shares the tasks of one run. Cells of a multirun run side by side with hydra/launcher=joblib"
        )
    if not ranks().rank:
        yield command
        return
    with tempfile.TemporaryDirectory() as folder:
        others = [str(o.input_line) for o in command.overrides if key_of(o) != "hydra.run.dir"]
        yield command.with_settings([*others, f"hydra.run.dir={quoted(folder)}"])


def _terminated(number: int, _: object) -> None:
    """SIGTERM or SIGHUP outside a run, which receives its own: processes of a launcher end with this one."""
    multirun.exit_statuses.append(128 + number)
    raise KeyboardInterrupt


def _say_how_to_resume() -> None:
    if multirun.jobs:
        say(
            f"interrupted; {multirun.done()} of {len(multirun.jobs)} cells are done. "
            f"Resume: metarun sweep.resume={multirun.jobs[0].sweep}"
        )
