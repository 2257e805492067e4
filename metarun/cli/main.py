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
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from metarun.cli.errors import explain, is_users_fault
from metarun.cli.help import help_text
from metarun.cli.resume import is_multirun, with_saved_overrides
from metarun.cli.startup import import_for
from metarun.experiment.cell import composed_spec, holding, record_exit, record_failure, refuse
from metarun.experiment.choices import CONF
from metarun.experiment.multirun import multirun
from metarun.experiment.signals import no_interrupt_is_lost, stopping_signals
from metarun.run_folder import read_overrides
from metarun.sweeps.plan import quoted
from metarun.training.ranks import ranks

OmegaConf.register_new_resolver("metarun_name", lambda name: name.replace("/", "-"), replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run_job(cfg: DictConfig) -> float | None:
    """One run, as Hydra calls it."""
    spec = composed_spec(cfg)
    import_for(cfg)
    from metarun.experiment.build import saved_config  # these import torch, which --help must not wait for
    from metarun.experiment.errors import ConfigError
    from metarun.experiment.run import run, run_worker
    from metarun.experiment.schema import check_output

    try:
        if not cfg.run.resume:
            check_output(HydraConfig.get().output_subdir)
        if ranks().rank and cfg.run.resume:
            spec.folder = Path(cfg.run.resume)  # Hydra's is a place of this process's own
        if (path := cfg.run.resume) and spec.sweep is None:
            spec.cfg, spec.choices = saved_config(spec.folder)
            spec.overrides = [entry for entry in read_overrides(spec.folder) if not entry.startswith("run.resume=")]
            spec.cfg.run.resume = path
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
    if {"-h", "--help"} & set(sys.argv[1:]):  # Hydra would first list every file of conf/, which takes seconds
        print(help_text())
        sys.exit(0)
    before = {number: signal.signal(number, _terminated) for number in stopping_signals() if number != signal.SIGINT}
    try:
        sys.argv[1:] = with_saved_overrides(sys.argv[1:])
        with no_interrupt_is_lost(), _folder_of_this_process():
            run_job()
    except KeyboardInterrupt:
        _say_how_to_resume()
        sys.exit(next((status for status in multirun.exit_statuses if status > 128), 130))
    except Exception as error:
        if show_traceback or not is_users_fault(error):
            raise
        if not ranks().rank:
            print(f"metarun: {explain(error, sys.argv[1:])}", file=sys.stderr)
        sys.exit(2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    status = multirun.exit_status()
    if multirun.all_refused():
        multirun.remove_refused()
    sys.exit(status)


def _refuse_wrong_ranks() -> None:
    """End where the environment is not as torchrun sets it; all that follows reads it."""
    try:
        ranks()
    except ValueError as error:
        print(f"metarun: {error}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def _folder_of_this_process() -> Iterator[None]:
    """Of the processes that torchrun started the first has the run's folder; inside, another has a temporary one.

    Raises:
        HydraException: a multirun.
    """
    if ranks().world_size > 1 and is_multirun(sys.argv[1:]):
        raise HydraException(
            "torchrun shares the tasks of one run. Cells of a multirun run side by side with hydra/launcher=joblib"
        )
    if not ranks().rank:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        others = [entry for entry in sys.argv[1:] if not entry.startswith("hydra.run.dir=")]
        sys.argv[1:] = [*others, f"hydra.run.dir={quoted(folder)}"]
        yield


def _terminated(number: int, _: object) -> None:
    """SIGTERM or SIGHUP outside a run, which receives its own: processes of a launcher end with this one."""
    multirun.exit_statuses.append(128 + number)
    raise KeyboardInterrupt


def _say_how_to_resume() -> None:
    if multirun.jobs:
        print(
            f"metarun: interrupted; {multirun.done()} of {len(multirun.jobs)} cells are done. "
            f"Resume: metarun sweep.resume={multirun.jobs[0].sweep}",
            file=sys.stderr,
        )
