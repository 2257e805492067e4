"""What happens between two outer steps, in which order and how often: the same for one run and for fused ones."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from metarun.experiment.build import RunConfig
from metarun.report.console import Progress
from metarun.training.compilation import CompilationError

COMPILING = "compiling (a signal waits for it)"


class NumberedStep(Protocol):
    """One outer step; the first has `iteration` 1."""

    @property
    def iteration(self) -> int: ...


S_contra = TypeVar("S_contra", bound=NumberedStep, contravariant=True)
S = TypeVar("S", bound=NumberedStep)


class Between(Protocol[S_contra]):
    """What a training does between two steps: metarun/experiment/trainer.py for one run, metarun/fused/program.py
    for several."""

    train_seconds: float
    """Time since training began, that before it was resumed included; `between_steps` keeps it."""

    def record_step(self, index: int, step: S_contra) -> None:
        """Record a step: its index in this process, from 0."""

    def log(self, step: S_contra) -> None:
        """Write a line of metrics."""

    def validate(self, iteration: int) -> None:
        """Evaluate on validation tasks, and keep the best weights so far."""

    def loss(self, step: S_contra) -> float | None:
        """The loss to show; None where no run is left."""

    @property
    def validation(self) -> float | None:
        """The last validation's metric, to show."""

    @property
    def compiled(self) -> bool:
        """Whether the first step is compiled, which takes long."""

    def stop_requested(self) -> bool:
        """Whether a signal came."""

    def save(self) -> None:
        """Write checkpoint `last`."""

    def raise_if_stop_requested(self) -> None:
        """Raise `InterruptedRun` if a signal came."""


def is_due(iteration: int, every: int, iterations: int) -> bool:
    """Whether what happens every so many outer steps, and after the last, happens now."""
    return iteration % every == 0 or iteration == iterations


def between_steps(
    steps: Iterable[S], run: Between[S], config: RunConfig, iterations: int, start: int, title: str, metric: str
) -> None:
    """Take the outer steps; after each: record, log, validate, show, save, stop, as far as each is due.

    Args:
        steps: the outer steps, taken as they are iterated.
        run: what is done.
        config: how often.
        iterations: outer steps in all.
        start: outer steps done before.
        title: of the progress bar.
        metric: name of the headline metric.

    Raises:
        InterruptedRun: a signal came; checkpoint `last` is that of the step before.
    """
    began, before = time.perf_counter(), run.train_seconds
    last_save = began
    with Progress(iterations, title, metric, start) as progress:
        progress.update(start, metric=run.validation)
        if start < iterations:
            progress.begin(COMPILING if run.compiled else "")
        for index, step in enumerate(unless_stopped(steps, run)):
            run.train_seconds = before + time.perf_counter() - began  # as the step's record and its line have it
            run.record_step(index, step)
            if is_due(step.iteration, config.log_every, iterations):
                run.log(step)
            validated = is_due(step.iteration, config.validate_every, iterations)
            if validated:
                run.validate(step.iteration)
            run.train_seconds = before + time.perf_counter() - began
            progress.update(step.iteration, run.loss(step), run.validation, milestone=validated)
            stop = run.stop_requested()
            late = time.perf_counter() - last_save >= config.checkpoint_seconds
            if late or stop or step.iteration == iterations:
                run.save()
                last_save = time.perf_counter()
            if stop:
                run.raise_if_stop_requested()


def unless_stopped(steps: Iterable[S], run: Between[S]) -> Iterator[S]:
    """The steps; a compiler that was stopped with the run is no failure of the run's.

    Raises:
        InterruptedRun: a step could not be compiled after a signal came.
    """
    try:
        yield from steps
    except CompilationError:
        if run.stop_requested():
            run.raise_if_stop_requested()
        raise
