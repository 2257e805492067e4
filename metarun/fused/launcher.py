"""`hydra/launcher=fused`: runs of a multirun that can share a program train together (metarun/fused/replicas.py).

Runs share a program if they differ in nothing but: the seed, the learner's 0-dim hyperparameters (`algo.inner_lr` and
its like), where its parameters start (`algo.initial_rates`, `backbone.init`), `optimizer.lr`, what their data set says
may vary (`TaskSet.fusable_args`), the published figure, the tracker. All others run sequentially. Each run keeps a
folder, metrics, checkpoints and `result.json` of its own.

One outer step of a program takes its replicas through the forward and backward pass together, or micro-batch by
micro-batch (`hydra.launcher.replica_micro_batch`). By the rule `auto` convolutional networks on a CPU go one replica at
a time, as separate runs would, and share the data set, the process and its start.

A multirun that stopped is resumed as with every launcher (metarun/sweeps/grid.py).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from metarun.experiment.build import Components, build
from metarun.experiment.cell import RunSpec, composed_spec, holding, record_exit, refuse
from metarun.experiment.claim import FolderError
from metarun.experiment.errors import ConfigError
from metarun.experiment.run import run
from metarun.experiment.session import Experiment
from metarun.experiment.signals import signals
from metarun.fused.group import Group, places_in
from metarun.fused.program import FusionError, Program
from metarun.fused.replicas import fusion_blocker
from metarun.plain_text import say
from metarun.tasks import TaskSet


class Sizes(NamedTuple):
    """Most runs in one program, and most replicas in one forward and backward pass: `auto` is the device's rule,
    None all."""

    max_replicas: int
    micro_batch: int | str | None


# ---------------------------------------------------------------------------------------------- from Hydra's side


def launch(
    context: HydraContext, config: DictConfig, sizes: Sizes, job_overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """What a Hydra launcher does: run every job, and return what each came to.

    Args:
        context: Hydra's.
        config: the multirun's configuration.
        sizes: of programs.
        job_overrides: of each job.
        first: number of the first job.
    """
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    specs: list[RunSpec] = []
    returns = []
    for number, overrides in enumerate(job_overrides, first):
        job_config = context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(job_config):
            job_config.hydra.job.id = job_config.hydra.job.num = number
        # Hydra makes the folder; the job itself only tells where it is.
        returned = run_job(
            hydra_context=context,
            task_function=lambda cfg: specs.append(composed_spec(cfg)),
            config=job_config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            configure_logging=number == first,
        )
        _ = returned.return_value  # raises what the job raised
        returns.append(returned)
    results = run_all(specs, sizes)
    for returned, spec, result in zip(returns, specs, results, strict=True):
        returned.return_value = record_exit(spec, result)
    return returns


# ------------------------------------------------------------------------------------------- who runs with whom


def run_all(specs: list[RunSpec], sizes: Sizes) -> list[dict[str, Any]]:
    """Every run's result, with its exit status beside it. Groups run in the order of their first runs."""
    results: dict[int, dict[str, Any]] = {}
    groups: dict[str, list[int]] = {}
    begun: dict[str, Group] = {}
    components: dict[int, Components] = {}
    places = places_in(spec.folder for spec in specs)
    for number, spec in enumerate(specs):
        try:
            with holding(spec):
                components[number] = build(spec.cfg, spec.choices)
        except ConfigError as error:
            results[number] = refuse(spec, error)
            continue
        key = program_key(spec, components[number])
        group, _ = places.get(spec.folder.resolve(), (None, 0))
        if group is not None and len(group) <= sizes.max_replicas:
            key = f"{group.members} {key}"
            begun[key] = group
        groups.setdefault(key, []).append(number)
    for key, numbers in groups.items():
        for at in range(0, len(numbers), sizes.max_replicas):
            chosen = numbers[at : at + sizes.max_replicas]
            runs = {n: (specs[n], components[n]) for n in chosen}
            ended = run_held(runs, sizes.micro_batch, begun.get(key))
            results |= ended
            if stopped := [result["exit_status"] for result in ended.values() if result["exit_status"] > 128]:
                rest = {"exit_status": stopped[0], "mean": None}
                return [results.get(n, rest) for n in range(len(specs))]
    return [results[n] for n in range(len(specs))]


def run_held(
    runs: dict[int, tuple[RunSpec, Components]], micro_batch: int | str | None, group: Group | None
) -> dict[int, dict[str, Any]]:
    """The results of runs of one key, by their numbers, whose folders are held meanwhile."""
    results: dict[int, dict[str, Any]] = {}
    held: dict[int, tuple[RunSpec, Components]] = {}
    with ExitStack() as stack:
        for number, (spec, components) in runs.items():
            try:
                stack.enter_context(holding(spec))
                held[number] = spec, components
            except FolderError as error:  # another process came between
                results[number] = refuse(spec, error)
        if held:
            specs, all_components = zip(*held.values(), strict=True)
            ended = run_group(list(specs), list(all_components), micro_batch, group)
            results |= dict(zip(held, ended, strict=True))
    return results


def program_key(spec: RunSpec, components: Components) -> str:
    """Text that two runs share if they can share a program."""
    config: Any = OmegaConf.to_container(spec.cfg, resolve=True)
    free = {
        "": ("seed", "paper", "tracker"),
        "run": ("resume",),
        "optimizer": ("lr",),
        "backbone": ("init",),
        "algo": (*components.learner.hyperparameters, *components.learner.init_only_args),
        "data": type(components.data).fusable_args,
    }
    for group, keys in free.items():
        for key in keys:
            (config[group] if group else config).pop(key, None)
    return json.dumps(config, sort_keys=True)


def run_group(
    specs: list[RunSpec], components: list[Components], micro_batch: int | str | None, group: Group | None
) -> list[dict[str, Any]]:
    """The results of runs of one key: fused if possible, otherwise sequentially."""
    if (len(specs) > 1 or group is not None) and not specs[0].cfg.run.evaluate:
        try:
            results = run_fused(specs, components, micro_batch, group)
            refusals = [result.get("refusal") for result in results]
            for number, (spec, why) in enumerate(zip(specs, refusals, strict=True)):
                if why is not None:  # said once for all
                    refuse(spec, why, silent=refusals.index(why) != number)
            return results
        except FusionError as error:
            say(f"{len(specs)} runs go one after the other, since {error}")
    results = []
    for spec in specs:
        try:
            results.append(run(spec))
        except ConfigError as error:
            results.append(refuse(spec, error))
        if results[-1]["exit_status"] > 128:
            results += [{**results[-1], "mean": None}] * (len(specs) - len(results))
            break
    return results


def run_fused(
    specs: list[RunSpec], components: list[Components], micro_batch: int | str | None, group: Group | None
) -> list[dict[str, Any]]:
    """The results of runs that train together.

    A process may be killed between two checkpoints. Runs that are behind come up first, in the places that they have.

    Args:
        specs, components: of the runs.
        micro_batch: see `Program`.
        group: that they trained in before; None: a new one.

    Raises:
        FusionError: they cannot.
    """
    runs = fusable(specs, components)
    places = list(range(len(runs)))
    if group is None:
        group = Group.of(runs)
    else:
        places = [group.members.index(spec.folder.resolve()) for spec in specs]
    try:
        prepared = {place: run.prepare_folder() for place, run in zip(places, runs, strict=True)}
    except ConfigError as error:
        raise FusionError(str(error)) from error
    results = {place: result for place, result in prepared.items() if result is not None}
    waiting = {place: run for place, run in zip(places, runs, strict=True) if place not in results}
    iterations = sorted({run.state.iteration for run in waiting.values()})
    with signals() as received_signals:
        for iteration, until in itertools.zip_longest(iterations, iterations[1:]):
            members = {p: run for p, run in waiting.items() if run.state.iteration == iteration and p not in results}
            if members:
                results |= Program(members, group, received_signals, micro_batch).run(until)
    return [results[place] for place in places]


def fusable(specs: list[RunSpec], components: list[Components]) -> list[Experiment]:
    """Runs that can train together.

    Raises:
        FusionError: they cannot.
    """
    shared: dict[str, TaskSet] = {}
    for spec, own in zip(specs, components, strict=True):  # one data set in memory for all that draw from it
        own.data = shared.setdefault(json.dumps(OmegaConf.to_container(spec.cfg.data, resolve=True)), own.data)
    try:
        runs = [Experiment(own, spec) for spec, own in zip(specs, components, strict=True)]
    except ConfigError as error:  # one of them cannot start from what it names: alone, the others still can
        raise FusionError(str(error)) from error
    if not components[0].data.fixed_shapes:
        raise FusionError("their tasks differ in size")
    if (reason := fusion_blocker(runs[0].state)) is not None:
        raise FusionError(reason)
    return runs
