"""`hydra/launcher=fused`: cells of a multirun that can share a program train together (metarun/replicas.py).

Cells share a program if they differ in nothing but: the seed, the learner's 0-dim numbers (`algo.inner_lr` and its
like), where its parameters start (`algo.initial_rates`, `backbone.init`), `optimizer.lr`, what their data set says may
vary (`TaskSet.varies`), the published figure, the tracker. All others run one after the other. Each cell keeps a
folder, metrics, checkpoints and `result.json` of its own.

One outer step of a program takes its replicas through the forward and backward pass together, or chunk by chunk
(`hydra.launcher.replica_chunk`). By the rule `auto` convolutional networks on a CPU go one replica at a time, as
separate runs would, and share the data set, the process and its start.

A sweep that stopped goes on as with every launcher (metarun/grid.py).
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from metarun.cli import Cell, cell_of, refused, settle
from metarun.evaluate import judges
from metarun.loop import Diverged
from metarun.replicas import Replicas, Steps, fit_together, why_alone
from metarun.run import Job, Parts, Refused, build, run, signals
from metarun.tasks.task import TaskSet
from metarun.tracking.console import Progress


class CannotFuse(Exception):
    """The program of several replicas did not run; each can still run alone."""


class Sizes(NamedTuple):
    """Cells in one program, and replicas in one forward and backward pass: `auto` is the device's rule, None all."""

    most: int
    chunk: int | str | None


# ---------------------------------------------------------------------------------------------- from Hydra's side


def launch(
    context: HydraContext, config: DictConfig, sizes: Sizes, job_overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """What a Hydra launcher does: run every cell, and return what each came to.

    Args:
        context: Hydra's.
        config: the multirun's configuration.
        sizes: of programs.
        job_overrides: of each cell.
        first: number of the first cell.
    """
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    cells: list[Cell] = []
    returns = []
    for number, overrides in enumerate(job_overrides, first):
        cell_config = context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(cell_config):
            cell_config.hydra.job.id = cell_config.hydra.job.num = number
        # Hydra makes the folder and writes .hydra; the job itself only tells where it is.
        returned = run_job(
            hydra_context=context,
            task_function=lambda cfg: cells.append(cell_of(cfg)),
            config=cell_config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            configure_logging=number == first,
        )
        _ = returned.return_value  # raises what the job raised
        returns.append(returned)
    results = run_cells(cells, sizes)
    for returned, cell, result in zip(returns, cells, results, strict=True):
        returned.return_value = settle(cell, result)
    return returns


# ------------------------------------------------------------------------------------------- who runs with whom


def run_cells(cells: list[Cell], sizes: Sizes) -> list[dict[str, Any]]:
    """Every cell's result, with its exit status beside it. Groups run in the order of their first cells."""
    results: dict[int, dict[str, Any]] = {}
    groups: dict[str, list[int]] = {}
    parts: dict[int, Parts] = {}
    for number, cell in enumerate(cells):
        try:
            parts[number] = build(cell.cfg, cell.choices)
        except Refused as error:
            results[number] = refused(cell, error)
            continue
        groups.setdefault(_program_key(cell, parts[number]), []).append(number)
    for numbers in groups.values():
        for at in range(0, len(numbers), sizes.most):
            chosen = numbers[at : at + sizes.most]
            found = _run_group([cells[n] for n in chosen], [parts[n] for n in chosen], sizes.chunk)
            results |= dict(zip(chosen, found, strict=True))
            if any(result["exit_status"] > 128 for result in found):
                rest = {"exit_status": found[0]["exit_status"], "mean": None}
                return [results.get(n, rest) for n in range(len(cells))]
    return [results[n] for n in range(len(cells))]


def _program_key(cell: Cell, parts: Parts) -> str:
    """Text that two cells share if they can share a program."""
    plain: Any = OmegaConf.to_container(cell.cfg, resolve=True)
    free = {
        "": ("seed", "paper", "tracker"),
        "run": ("resume",),
        "optimizer": ("lr",),
        "backbone": ("init",),
        "algo": (*parts.learner.numbers, *parts.learner.starts),
        "data": type(parts.data).varies,
    }
    for group, keys in free.items():
        for key in keys:
            (plain[group] if group else plain).pop(key, None)
    return json.dumps(plain, sort_keys=True)


def _run_group(cells: list[Cell], parts: list[Parts], chunk: int | str | None) -> list[dict[str, Any]]:
    """The results of cells of one key: together where that can be, else one after the other."""
    if len(cells) > 1 and not cells[0].cfg.run.evaluate:
        try:
            results = _run_together(cells, parts, chunk)
            whys = [result.get("refusal") for result in results]
            for number, (cell, why) in enumerate(zip(cells, whys, strict=True)):
                if why is not None:  # said once for all
                    refused(cell, why, say=whys.index(why) == number)
            return results
        except CannotFuse as error:
            print(f"metarun: {len(cells)} runs go one after the other, since {error}", file=sys.stderr)
    results = []
    for cell in cells:
        try:
            results.append(run(cell.cfg, cell.choices, cell.folder, cell.overrides, cell.group))
        except Refused as error:
            results.append(refused(cell, error))
        if results[-1]["exit_status"] > 128:
            results += [{**results[-1], "mean": None}] * (len(cells) - len(results))
            break
    return results


def _run_together(cells: list[Cell], parts: list[Parts], chunk: int | str | None) -> list[dict[str, Any]]:
    shared: dict[str, TaskSet] = {}
    for cell, own in zip(cells, parts, strict=True):  # one data set in memory for all that draw from it
        own.data = shared.setdefault(json.dumps(OmegaConf.to_container(cell.cfg.data, resolve=True)), own.data)
    try:
        jobs = [
            Job(own, cell.cfg, cell.choices, cell.folder, cell.overrides, cell.group)
            for cell, own in zip(cells, parts, strict=True)
        ]
    except Refused as error:  # one of them cannot start from what it names: alone, the others still can
        raise CannotFuse(str(error)) from error
    if not parts[0].data.steady:
        raise CannotFuse("their tasks differ in size")
    if (reason := why_alone(jobs[0].training)) is not None:
        raise CannotFuse(reason)
    results: list[dict[str, Any] | None] = [job.begin() for job in jobs]
    waiting = [r for r, done in enumerate(results) if done is None]
    with signals() as caught:
        # A process may be killed between two checkpoints: those who stand at the same iteration go on together.
        for iteration in sorted({jobs[r].training.iteration for r in waiting}):
            members = [r for r in waiting if jobs[r].training.iteration == iteration]
            for r, result in zip(members, Program([jobs[r] for r in members], caught, chunk).run(), strict=True):
                results[r] = result
    return [result for result in results if result is not None]


# ------------------------------------------------------------------------------------------------ one program


class Program:
    """Jobs under way as one program; each ends by itself.

    Args:
        jobs: at the same iteration, of one `_program_key`.
        caught: signals that came.
        chunk: replicas in one forward and backward pass; None: all, `auto`: as the device's rule says.
    """

    def __init__(self, jobs: list[Job], caught: list[int], chunk: int | str | None) -> None:
        self.jobs, self.caught = jobs, caught
        self.results: dict[int, dict[str, Any]] = {}
        self.middle = _median(jobs)
        first = jobs[0]
        self.options, self.device, self.iterations = first.options, first.device, first.iterations
        self.size = self.device.replicas_at_once(first.learner, len(jobs), chunk)
        passes = self.iterations * math.ceil(len(jobs) / self.size)
        self.compiled = any(job.training.iteration and job.compiled for job in jobs) or (
            not first.training.iteration and self.device.compiles(first.learner, passes, self.size)
        )
        for job in jobs:
            job.caught, job.compiled, job.replicas = caught, self.compiled, len(jobs)

    @property
    def alive(self) -> list[int]:
        return [r for r in range(len(self.jobs)) if r not in self.results]

    def run(self) -> list[dict[str, Any]]:
        """Each job's result with its exit status.

        Raises:
            CannotFuse: the first step failed.
        """
        try:
            for job in self.jobs:
                job.open()
            trainings, data = [job.training for job in self.jobs], [job.data for job in self.jobs]
            self.replicas = Replicas(trainings, data, self.jobs[0].outer, self.size)
            self._train()
            self._test()
        except CannotFuse:
            raise
        except (Exception, KeyboardInterrupt) as error:
            for r in self.alive:
                self._end(r, error)
        return [self.results[r] for r in range(len(self.jobs))]

    def _end(self, r: int, error: BaseException) -> None:
        try:
            self.results[r] = self.jobs[r].close(*self.jobs[r].failure(error))
        except Refused as refusal:
            self.results[r] = {"exit_status": 2, "mean": None, "refusal": str(refusal)}

    def _each(self, action: Callable[[Job, int], object]) -> None:
        """Do something for every living job; one that diverges in it or cannot write ends alone."""
        for r in self.alive:
            try:
                action(self.jobs[r], r)
            except (Diverged, OSError) as error:
                self.replicas.alive.discard(r)
                self._end(r, error)

    # ------------------------------------------------------------------------------------------------- training

    def _train(self) -> None:
        first = self.jobs[0]
        began, before, last_save = time.perf_counter(), first.train_seconds, time.perf_counter()
        title = f"{first.title}, {len(self.jobs)} replicas"
        with Progress(self.iterations, title, first.data.metric, first.training.iteration) as progress:
            for number, steps in enumerate(self._steps()):
                for r in self.alive:
                    if r in steps.failed:
                        self._end(r, Diverged(steps.iteration, f"the loss became {steps.failed[r]}"))
                        continue
                    self.jobs[r].count(number, steps.seconds, steps.loss(r))
                    self.jobs[r].train_seconds = before + time.perf_counter() - began
                if first.due(steps.iteration, self.options.log_every):
                    self._log(steps)
                if first.due(steps.iteration, self.options.validate_every):
                    self._validate(steps.iteration)
                if self.alive:
                    progress.update(steps.iteration, loss=steps.loss(self.alive[0]), metric=self.middle)
                late = time.perf_counter() - last_save >= self.options.checkpoint_seconds
                if late or self.caught or steps.iteration == self.iterations:
                    self.replicas.hand_out()
                    self._each(lambda job, _: job.save("last"))
                    last_save = time.perf_counter()
                self.jobs[0].stop_if_asked()

    def _steps(self) -> Iterator[Steps]:
        steps = fit_together(
            self.replicas, self.iterations, self.options.meta_batch, self.device.task_chunk, self.compiled
        )
        try:
            first = next(steps, None)
        except RuntimeError as error:  # an operation that has no batched form
            if self.replicas.iteration:
                raise
            for job in self.jobs:
                assert job.metrics is not None and job.tracker is not None
                job.metrics.close()
                job.tracker.finish(1)
            raise CannotFuse(f"their program fails ({str(error).splitlines()[0]})") from error
        if first is not None:
            yield first
            yield from steps

    def _log(self, steps: Steps) -> None:
        first = self.jobs[0]
        scores = None
        if judges(first.data.kind, steps.batch):
            scores = self.replicas.score(
                self.alive, steps.batch, steps.noise, first.learner.inner_steps, False, self.device.task_chunk
            )
        told = {name: value.tolist() for name, value in self.replicas.inspect().items()}

        def line(job: Job, r: int) -> None:
            metric = None if scores is None else float(scores[r][job.data.metric][:, -1].mean())
            job.log(steps.iteration, metric, {name: values[r] for name, values in told.items()})

        self._each(line)

    def _validate(self, iteration: int) -> None:
        scores = self.replicas.evaluate(
            "val",
            self.options.val_tasks,
            self.jobs[0].learner.eval_steps,
            curve=False,
            on_block=self.jobs[0].stop_if_asked,
            chunk=self.device.task_chunk,
        )
        self.replicas.hand_out()
        self._each(lambda job, r: job.take_validation(iteration, scores[r].estimate().mean))
        self.middle = _median([self.jobs[r] for r in self.alive])

    # -------------------------------------------------------------------------------------------------- testing

    def _test(self) -> None:
        """Weights to be judged go into the stacks, of which each learner's tensors are views."""
        self._each(lambda job, _: job.take_judged_weights())
        if not self.alive:
            return
        title = f"test, {self.jobs[0].title}, {len(self.jobs)} replicas"
        with Progress(self.options.eval_tasks, title, self.jobs[0].data.metric) as progress:

            def on_block(done: int) -> None:
                progress.update(done)
                self.jobs[0].stop_if_asked()

            options, chunk = self.options, self.device.task_chunk
            scores = self.replicas.evaluate(
                "test", options.eval_tasks, options.curve_steps, on_block=on_block, chunk=chunk
            )

        def report(job: Job, r: int) -> None:
            self.results[r] = job.close(job.report(scores[r]), 0)

        self._each(report)


def _median(jobs: list[Job]) -> float | None:
    """The middle one of the jobs' last validations."""
    values = sorted(job.last_metric for job in jobs if job.last_metric is not None)
    return values[len(values) // 2] if values else None
