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
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from metarun.experiment.multirun import SweepJob, multirun
from metarun.experiment.overrides import UsageError, choices_of, first_choice, key_of, lines_of, quoted, read
from metarun.experiment.targets import make, refuse_foreign_targets
from metarun.files import write_text
from metarun.run_folder import result_or_empty
from metarun.sweeps import grid
from metarun.sweeps.launchers import launch
from metarun.sweeps.plan import compose, state_of

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
                raise UsageError(f"hydra.sweeper.{name} must be at least 1; got {getattr(self, name)}")
        if self.sampler not in SAMPLERS:
            raise UsageError(f"hydra.sweeper.sampler must be one of {', '.join(SAMPLERS)}; got {self.sampler!r}")


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
    space, fixed, seeds = split(grid.parsed(arguments))
    if config.sweep.inner_lr is not None:
        raise UsageError("sweep.inner_lr is a grid; to search, give algo.inner_lr='tag(log,interval(1e-4,1))'")
    seeds = seeds or [f"seed={seed}" for seed in config.sweep.seed or ()]
    first = check_choices(context, config, arguments)
    higher = is_higher_better(context, config, first)
    typed: Any = OmegaConf.to_container(config.hydra.overrides.task)
    with multirun.planning(Path(config.hydra.sweep.dir), typed):
        study = open_study(config, options, higher)
        grid.save_config(config)
    again = requeue(study)
    done = sum("ended" in trial.user_attrs for trial in study.trials)
    if done or again:
        log.info(f"{done} of {options.n_trials} trials are done, {again} go on")
    while done < options.n_trials:
        trials = ask(study, space, min(options.n_jobs, options.n_trials - done))
        run_batch(context, config, launcher, study, trials, fixed, seeds)
        done += len(trials)
    return report(study, Path(config.hydra.sweep.dir))


def check_choices(context: HydraContext, config: DictConfig, arguments: list[str]) -> list[str]:
    """Compose every choice of every key beside the first ones of the others, so that a mistyped one ends the command.

    Returns:
        The overrides of the first of all.

    Raises:
        CellError: one cannot be composed.
    """
    values = {key_of(override): override for override in grid.parsed(arguments)}
    first = {key: first_choice(override) for key, override in values.items()}
    for key, override in values.items():
        for line in lines_of(override) if override.is_choice_sweep() else ():
            compose(context, config, list({**first, key: line}.values()), 0)
    return list(first.values())


def split(overrides: list[Override]) -> tuple[dict[str, Any], list[str], list[str]]:
    """What is searched, by key; what all trials share; the seeds of a trial.

    Raises:
        HydraException: nothing is searched.
    """
    space: dict[str, Any] = {}
    fixed, seeds = [], []
    for override in overrides:
        if key_of(override) == "seed":
            seeds = grid.discrete_lines(override)
        elif override.is_sweep_override():
            space[override.get_key_element()] = distribution(override)
        else:
            fixed.append(str(override.input_line))
    if not space:
        raise UsageError(
            "hydra/sweeper=optuna has nothing to search: give a range, as algo.inner_lr='tag(log,interval(1e-4,1))', "
            "or choices, as optimizer.lr=1e-2,1e-3"
        )
    return space, fixed, seeds


def distribution(override: Override) -> optuna.distributions.BaseDistribution:
    """Optuna's form of a sweep: choices, `range(1,5)`, `interval(0.1,1)`, with `tag(log,...)` on a log scale.

    Raises:
        UsageError: Optuna is not installed, or the sweep is no range that it can search.
    """
    require_optuna()
    choices = choices_of(override)
    try:
        return _distribution(override.value(), choices)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UsageError(
            f"{override.input_line} must be a range to search in; {' '.join(str(error).split())}"
        ) from error


def _distribution(value: Any, choices: list[str]) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    logarithmic = "log" in value.tags if isinstance(value, Sweep) else False
    if isinstance(value, RangeSweep):
        numbers = sorted(map(float, choices))
        if all(number.is_integer() for number in numbers):
            return IntDistribution(int(numbers[0]), int(numbers[-1]), step=abs(int(value.step)))
        return FloatDistribution(numbers[0], numbers[-1], step=abs(float(value.step)))
    if not isinstance(value, IntervalSweep):
        return CategoricalDistribution(choices)
    if isinstance(value.start, int) and isinstance(value.end, int):
        return IntDistribution(value.start, value.end, log=logarithmic)
    return FloatDistribution(float(value.start or 0), float(value.end or 0), log=logarithmic)


def require_optuna() -> None:
    """Refuse the search where what it needs is not installed.

    Raises:
        UsageError: Optuna is not there.
    """
    if find_spec("optuna") is None:
        raise UsageError("hydra/sweeper=optuna needs Optuna, which is not installed: pip install optuna")


def open_study(config: DictConfig, options: OptunaConfig, higher: bool) -> optuna.Study:
    """The study in its storage, a new one or that of an earlier part of the search.

    Raises:
        UsageError: the storage cannot be opened, or the sampler's package is not installed.
    """
    require_optuna()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if options.sampler == "cmaes" and find_spec("cmaes") is None:
        raise UsageError("hydra.sweeper.sampler=cmaes needs the package cmaes, which is not installed")
    folder = Path(config.hydra.sweep.dir)
    if options.storage is None:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        return optuna.create_study(
            storage=options.storage or f"sqlite:///{(folder / 'optuna.db').resolve()}",
            sampler=getattr(optuna.samplers, SAMPLERS[options.sampler])(seed=options.seed),
            study_name=options.study_name,
            direction="maximize" if higher else "minimize",
            load_if_exists=True,
        )
    except Exception as error:  # of SQLAlchemy, of its drivers, of Optuna
        where = options.storage or folder / "optuna.db"
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(
            f"hydra.sweeper.storage must be an Optuna URL such as sqlite:///FILE; {where}: {reason}"
        ) from error


def ask(study: optuna.Study, space: dict[str, Any], count: int) -> list[optuna.Trial]:
    """So many new trials.

    Raises:
        UsageError: the study has searched other values before.
    """
    try:
        return [study.ask(space) for _ in range(count)]
    except ValueError as error:
        raise UsageError(f"the study does not go with this search: {' '.join(str(error).split())}") from error


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
        raise UsageError(str(error)) from error


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
            planned_job(config, [*fixed, *trial_lines(trial), *s], name, first + n)
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


def trial_lines(trial: optuna.Trial) -> list[str]:
    return [f"{key}={value}" for key, value in trial.params.items()]


def planned_job(config: DictConfig, overrides: list[str], name: str, number: int) -> SweepJob:
    seeds = [choices_of(override)[0] for override in map(read, overrides) if key_of(override) == "seed"]
    subdir = f"{name}_seed={seeds[0]}" if seeds else name
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
