"""Runs under way as one program: trained together, evaluated together; each ends by itself."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from metarun.evaluation.evaluate import Evaluation, has_headline_metric
from metarun.experiment.cadence import between_steps
from metarun.experiment.errors import ConfigError
from metarun.experiment.result import close, compute_result, failure
from metarun.experiment.run import finish
from metarun.experiment.session import Experiment
from metarun.fused.evaluate import diagnostics, evaluate_replicas, score_replicas
from metarun.fused.group import Group
from metarun.fused.loop import Steps, fit_together
from metarun.fused.replicas import Replicas
from metarun.report.console import Progress
from metarun.tasks import Split
from metarun.training.compilation import CompilationError
from metarun.training.loop import DivergenceError


class FusionError(Exception):
    """The program of several replicas did not run; each can still run alone."""


class Program:
    """Several runs' side of `metarun.experiment.cadence.Between`.

    Args:
        runs: by their place in the group; at the same iteration, of one `program_key`.
        group: the places; those of no run here are held by stand-ins.
        received_signals: signals that came.
        micro_batch: replicas in one forward and backward pass; None: all, `auto`: as the device's rule says.

    Attributes:
        results: of the runs that have ended, by their place, with their exit status.
        validation: the median of the runs' last validations, to show beside the median of their losses.
    """

    def __init__(
        self, runs: Mapping[int, Experiment], group: Group, received_signals: list[int], micro_batch: int | str | None
    ) -> None:
        self.runs, self.group, self.received_signals = runs, group, received_signals
        self.results: dict[int, dict[str, Any]] = {}
        first = runs[min(runs)]
        self.first, self.config, self.device, self.iterations = first, first.config, first.device, first.iterations
        self.micro_batch = self.device.replicas_at_once(first.learner, len(group), micro_batch)
        passes = self.iterations * math.ceil(len(group) / self.micro_batch)
        self.compiled = any(run.state.iteration and run.compiled for run in runs.values()) or (
            not first.state.iteration and self.device.compiles(first.learner, passes, self.micro_batch)
        )
        for run in runs.values():
            run.received_signals, run.compiled, run.replicas = received_signals, self.compiled, len(group)
        self.validation = median(run.validation for run in runs.values())
        self._train_seconds = first.train_seconds

    @property
    def active(self) -> list[int]:
        """The places of the runs that have not ended."""
        return [r for r in self.runs if r not in self.results]

    @property
    def title(self) -> str:
        return f"{self.first.title}, {len(self.group)} replicas"

    def run(self, until: int | None = None) -> dict[int, dict[str, Any]]:
        """Train and test.

        Args:
            until: stop after this iteration, before the test, with a checkpoint; None: at the end.

        Returns:
            By place, the result with its exit status of each run that has ended.

        Raises:
            FusionError: the first step failed.
        """
        try:
            for run in self.runs.values():
                if run.metrics is None:
                    run.open()
            self.raise_if_stop_requested()
            trainings = self.group.trainings(self.runs)
            self.replicas = Replicas(*trainings, self.first.meta_optimizer, self.micro_batch, self.runs)
            start, metric = self.first.state.iteration, self.first.data.metric
            between_steps(self.steps(until), self, self.config, self.iterations, start, self.title, metric)
            if until is None:
                self.test()
            else:
                self.save()
        except FusionError:
            raise
        except (Exception, KeyboardInterrupt) as error:
            for r in self.active:
                self._end(r, error)
        return self.results

    def steps(self, until: int | None = None) -> Iterator[Steps]:
        """The outer steps that are left, or are until an iteration.

        Raises:
            FusionError: the first one failed.
        """
        steps = fit_together(
            self.replicas,
            self.iterations,
            self.config.meta_batch_size,
            self.device.task_micro_batch,
            self.compiled,
            self.go_on_uncompiled if self.device.compile == "auto" else None,
        )
        if (first := self._first(steps)) is None:
            return
        self._each(lambda run, place: self.group.write(run.folder, place))
        for step in itertools.chain([first], steps):
            yield step
            if step.iteration == until:
                return

    def _first(self, steps: Iterator[Steps]) -> Steps | None:
        """The first step; None: there is none left.

        Raises:
            FusionError: it failed.
        """
        try:
            return next(steps, None)
        except CompilationError:  # no fault of the program's: alone they fail as well
            raise
        except RuntimeError as error:  # an operation that has no batched form
            if self.replicas.iteration:
                raise
            for run in self.runs.values():
                assert run.metrics is not None
                run.metrics.close()
                run.tracker.finish(1)
            raise FusionError(f"their program fails ({str(error).splitlines()[0]})") from error

    def go_on_uncompiled(self, error: CompilationError) -> None:
        """Torch cannot compile the program: say so, and keep that no run is compiled."""
        self.compiled = False
        for run in self.runs.values():
            run.go_on_uncompiled(error)

    def test(self) -> None:
        """Evaluate all on the test tasks; each run's result is written.

        The weights that are tested go into the stacks, of which each learner's tensors are views.
        """
        self._each(lambda run, _: run.load_test_weights())
        if not self.active:
            return
        began = time.perf_counter()
        evaluations = self.evaluate("test", "test", self.config.eval_tasks, self.config.curve_steps)
        seconds = time.perf_counter() - began  # of all together, as the time of training

        def report(run: Experiment, r: int) -> None:
            run.test_seconds = seconds
            self.results[r] = finish(run, compute_result(run, evaluations[r]))

        self._each(report)

    def evaluate(self, split: Split, what: str, tasks: int, steps: int) -> dict[int, Evaluation]:
        """Evaluate all on held-out tasks, with a progress bar: `Experiment.evaluate` of each.

        Raises:
            InterruptedRun: a signal came.
        """
        with Progress(tasks, f"{what}, {self.title}", self.first.data.metric) as progress:

            def on_block(done: int) -> None:
                progress.update(done)
                self.raise_if_stop_requested()

            size = self.device.task_micro_batch
            return evaluate_replicas(self.replicas, split, tasks, steps, split == "test", on_block, size)

    # ------------------------------------------------------------------------------------- between two steps

    @property
    def train_seconds(self) -> float:
        return self._train_seconds

    @train_seconds.setter
    def train_seconds(self, seconds: float) -> None:
        self._train_seconds = seconds
        for r in self.active:
            self.runs[r].train_seconds = seconds

    def record_step(self, index: int, step: Steps) -> None:
        for r in self.active:
            if r in step.failed:
                self._end(r, DivergenceError(step.iteration, f"the loss became {step.failed[r]}"))
            else:
                self.runs[r].record_step(index, step.seconds, step.loss(r))

    def log(self, step: Steps) -> None:
        first, values = self.first, None
        if has_headline_metric(first.data.kind, step.batch):
            values = score_replicas(
                self.replicas,
                range(len(self.group)),
                step.batch,
                step.random_inputs,
                first.learner.inner_steps,
                False,
                self.device.task_micro_batch,
            )
        learned = {name: value.tolist() for name, value in diagnostics(self.replicas).items()}

        def line(run: Experiment, r: int) -> None:
            metric = None if values is None else float(values[r][run.data.metric][:, -1].mean())
            run.log(step.iteration, metric, {name: value[r] for name, value in learned.items()})

        self._each(line)

    def validate(self, iteration: int) -> None:
        evaluations = self.evaluate("val", "validation", self.config.val_tasks, self.first.learner.eval_steps)
        self.replicas.scatter_optimizer_state()
        self._each(lambda run, r: run.record_validation(iteration, evaluations[r].estimate()))
        self.validation = median(self.runs[r].validation for r in self.active)

    def loss(self, step: Steps) -> float | None:
        return median(step.loss(r) for r in self.active)

    def save(self) -> None:
        self.replicas.scatter_optimizer_state()
        self._each(lambda run, _: run.save("last"))

    def stop_requested(self) -> bool:
        return bool(self.received_signals)

    def raise_if_stop_requested(self) -> None:
        self.first.raise_if_stop_requested()

    # ------------------------------------------------------------------------------------------ one run's end

    def _each(self, action: Callable[[Experiment, int], object]) -> None:
        """Do something for every active run; one that diverges in it or cannot write ends alone."""
        for r in self.active:
            try:
                action(self.runs[r], r)
            except (DivergenceError, OSError) as error:
                self.replicas.active.discard(r)
                self._end(r, error)

    def _end(self, r: int, error: BaseException) -> None:
        try:
            self.results[r] = close(self.runs[r], *failure(self.runs[r], error))
        except ConfigError as refusal:
            self.results[r] = {"exit_status": 2, "mean": None, "refusal": str(refusal)}


def median(values: Iterable[float | None]) -> float | None:
    """The middle one of the runs' values, of those that are finite, to show; None: there is none."""
    finite = sorted(value for value in values if value is not None and math.isfinite(value))
    return finite[len(finite) // 2] if finite else None
