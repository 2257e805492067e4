"""`hydra/sweeper=optuna`: the command's ranges are searched for the best metric on the VALIDATION tasks.

The test tasks take no part in the search: each trial is tested as every run is, and the table at the end shows it, but
what Optuna is told is the best validation (`validation.best` of result.json). A list of seeds is not searched: every
trial runs all of them and counts with their mean. A trial one of whose cells does not complete has failed.

The study is in Optuna's storage from the first trial on (optuna-dashboard opens it). The same command with the same
`hydra.sweep.dir`, or `sweep.resume=PATH`, goes on: trials that were under way go on in their folders.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from metarun.experiment.multirun import SweepJob, multirun
from metarun.experiment.targets import make, refuse_foreign_targets
from metarun.files import write_text
from metarun.run_folder import result_or_empty
from metarun.sweeps import grid
from metarun.sweeps.launchers import launch
from metarun.sweeps.plan import compose, quoted, state_of

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler", "cmaes": "CmaEsSampler", "gp": "GPSampler"}
SAMPLERS |= {"qmc": "QMCSampler"}


@dataclass
class OptunaConfig:
    """Keys of `hydra.sweeper`; see hydra_plugins/metarun_optuna.py."""

    n_trials: int
    n_jobs: int
    sampler: str
    seed: int
    storage: str | None
    study_name: str

    def __post_init__(self) -> None:
        for name in ("n_trials", "n_jobs"):
            if getattr(self, name) < 1:
                raise HydraException(f"hydra.sweeper.{name} must be at least 1; got {getattr(self, name)}")
        if self.sampler not in SAMPLERS:
            raise HydraException(f"hydra.sweeper.sampler must be one of {', '.join(SAMPLERS)}; got {self.sampler!r}")


def search(
    context: HydraContext, config: DictConfig, launcher: Launcher, arguments: list[str], options: OptunaConfig
) -> dict[str, Any]:
    """What a Hydra sweeper does: trials, until there are `n_trials`.

    Returns:
        The best trial's parameters and value, which `optimization_results.yaml` holds too.

    Raises:
        HydraException: Optuna is not installed, nothing is to be searched, or a cell cannot be composed.
    """
    grid.check(config)
    space, fixed, seeds = split(grid.parsed(context, arguments))
    if config.sweep.inner_lr is not None:
        raise HydraException("sweep.inner_lr is a grid; to search, give algo.inner_lr='tag(log,interval(1e-4,1))'")
    seeds = seeds or [f"seed={seed}" for seed in config.sweep.seed or ()]
    with multirun.planning(Path(config.hydra.sweep.dir), config.hydra.overrides.task):
        study = open_study(config, options, is_higher_better(context, config, fixed))
        grid.save_config(config)
    again = requeue(study)
    done = sum("ended" in trial.user_attrs for trial in study.trials)
    if done or again:
        log.info(f"{done} of {options.n_trials} trials are done, {again} go on")
    while done < options.n_trials:
        trials = [study.ask(space) for _ in range(min(options.n_jobs, options.n_trials - done))]
        run_batch(context, config, launcher, study, trials, fixed, seeds)
        done += len(trials)
    return report(study, Path(config.hydra.sweep.dir))


def split(overrides: list[Override]) -> tuple[dict[str, Any], list[str], list[str]]:
    """What is searched, by key; what all trials share; the seeds of a trial.

    Raises:
        HydraException: nothing is searched.
    """
    space: dict[str, Any] = {}
    fixed, seeds = [], []
    for override in overrides:
        key = override.get_key_element()
        if key == "seed":
            seeds = [f"seed={value}" for value in grid.choices_of(override)]
        elif override.is_sweep_override():
            space[key] = distribution(override)
        else:
            fixed.append(f"{key}={override.get_value_element_as_str()}")
    if not space:
        raise HydraException(
            "hydra/sweeper=optuna has nothing to search: give a range, as algo.inner_lr='tag(log,interval(1e-4,1))', "
            "or choices, as optimizer.lr=1e-2,1e-3"
        )
    return space, fixed, seeds


def distribution(override: Override) -> optuna.distributions.BaseDistribution:
    """Optuna's form of a sweep: choices, `range(1,5)`, `interval(0.1,1)`, with `tag(log,...)` on a log scale."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, ChoiceSweep):
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    if isinstance(value, RangeSweep):
        numbers = [float(number) for number in override.sweep_string_iterator()]
        if all(number.is_integer() for number in numbers):
            return IntDistribution(int(numbers[0]), int(numbers[-1]), step=int(value.step))
        return FloatDistribution(numbers[0], numbers[-1], step=float(value.step))
    assert isinstance(value, IntervalSweep)
    logarithmic = "log" in value.tags
    if isinstance(value.start, int) and isinstance(value.end, int):
        return IntDistribution(value.start, value.end, log=logarithmic)
    return FloatDistribution(float(value.start or 0), float(value.end or 0), log=logarithmic)


def open_study(config: DictConfig, options: OptunaConfig, higher: bool) -> optuna.Study:
    try:
        import optuna
    except ImportError as error:
        raise HydraException("hydra/sweeper=optuna needs Optuna: pip install 'metarun[optuna]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = Path(config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    sampler = getattr(optuna.samplers, SAMPLERS[options.sampler])(seed=options.seed)
    return optuna.create_study(
        storage=options.storage or f"sqlite:///{(folder / 'optuna.db').resolve()}",
        sampler=sampler,
        study_name=options.study_name,
        direction="maximize" if higher else "minimize",
        load_if_exists=True,
    )


def is_higher_better(context: HydraContext, config: DictConfig, fixed: list[str]) -> bool:
    """By the headline metric of the data set; touches no data.

    Raises:
        HydraException: the trials' configuration makes no sense.
    """
    try:
        node: Any = OmegaConf.to_container(compose(context, config, fixed, 0).data, resolve=True)
        refuse_foreign_targets({"data": node})
        return bool(make("data", node, device="cpu").higher_is_better)
    except ValueError as error:
        raise HydraException(str(error)) from error


def requeue(study: optuna.Study) -> int:
    """Trials that were under way when the search stopped come first, and in their folders; how many."""
    from optuna.trial import TrialState

    stopped = [trial for trial in study.trials if trial.state == TrialState.RUNNING]
    for trial in stopped:
        folder = trial.user_attrs.get("folder", folder_name(trial.number))
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={"folder": folder})
    return len(stopped) or sum(trial.state == TrialState.WAITING for trial in study.trials)


def folder_name(number: int) -> str:
    return f"trial_{number:03}"


def run_batch(
    context: HydraContext,
    config: DictConfig,
    launcher: Launcher,
    study: optuna.Study,
    trials: Sequence[optuna.Trial],
    fixed: list[str],
    seeds: list[str],
) -> None:
    """Run trials at once, each with all seeds, and tell the study what they came to."""
    cells: list[SweepJob] = []
    of_trial = []
    for trial in trials:
        name = trial.user_attrs.get("folder", folder_name(trial.number))
        trial.set_user_attr("folder", name)
        first = len(multirun.jobs) + len(cells)
        own = [
            planned_job(config, [*fixed, *lines_of(trial), *s], name, first + n)
            for n, s in enumerate(split_seeds(seeds))
        ]
        of_trial.append(own)
        cells += own
    for cell in cells:
        cell.state = state_of(cell.folder, compose(context, config, cell.overrides, cell.number))
    missing = [cell for cell in cells if cell.state != "done"]
    multirun.make_folders(missing)
    multirun.jobs.extend(cells)
    if missing:
        launch(launcher, missing)
    for trial, own in zip(trials, of_trial, strict=True):
        tell(study, trial, [result_or_empty(cell.folder) for cell in own])


def split_seeds(seeds: list[str]) -> list[list[str]]:
    return [[seed] for seed in seeds] or [[]]


def lines_of(trial: optuna.Trial) -> list[str]:
    return [f"{key}={value}" for key, value in trial.params.items()]


def planned_job(config: DictConfig, overrides: list[str], name: str, number: int) -> SweepJob:
    seed = next((line for line in overrides if line.startswith("seed=")), None)
    subdir = f"{name}_{seed}" if seed else name
    where = Path(config.hydra.sweep.dir)
    return SweepJob(number, [*overrides, f"hydra.sweep.subdir={quoted(subdir)}"], where, where / subdir)


def tell(study: optuna.Study, trial: optuna.Trial, results: Sequence[dict[str, Any]]) -> None:
    """A trial's value is the mean over its seeds; one that did not complete, or has no number, makes it fail."""
    from optuna.trial import TrialState

    values = [metric_of(result) for result in results]
    trial.set_user_attr("test", [result.get("mean") for result in results])
    trial.set_user_attr("ended", True)
    if any(value is None for value in values):
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, sum(value for value in values if value is not None) / len(values))


def metric_of(result: dict[str, Any]) -> float | None:
    """The best validation of a completed run; of a learner that does not train, its test."""
    if result.get("status") != "completed":
        return None
    best = (result.get("validation") or {}).get("best")
    return result.get("mean") if best is None else best


def report(study: optuna.Study, folder: Path) -> dict[str, Any]:
    """Say and write what was best, in the file that Hydra's own Optuna plugin writes."""
    import yaml
    from optuna.trial import TrialState

    if not study.get_trials(states=(TrialState.COMPLETE,)):
        log.warning("no trial completed")
        return {}
    found = {
        "name": "optuna",
        "best_params": dict(study.best_params),
        "best_value": study.best_value,
        "best_trial": study.best_trial.user_attrs["folder"],
    }
    write_text(folder / "optimization_results.yaml", yaml.safe_dump(found, sort_keys=False))
    words = " ".join(f"{key}={value}" for key, value in study.best_params.items())
    log.info(f"best of {len(study.trials)} trials by validation: {words} ({study.best_value:.4g})")
    return found
