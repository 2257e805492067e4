"""Runs under way as one program: trained together, evaluated together; each ends by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from metarun.evaluation.evaluate import has_headline_metric
from metarun.experiment.cadence import between_steps
from metarun.experiment.errors import ConfigError
from metarun.experiment.result import close, compute_result, failure
from metarun.experiment.run import finish
from metarun.experiment.session import Experiment
from metarun.fused.evaluate import diagnostics, evaluate_replicas, score_replicas
from metarun.fused.loop import Steps, fit_together
from metarun.fused.replicas import Replicas
from metarun.report.console import Progress
from metarun.training.loop import DivergenceError


class FusionError(Exception):
    """The program of several replicas did not run; each can still run alone."""


class Program:
    """Several runs' side of `metarun.experiment.cadence.Between`.

    Args:
        runs: at the same iteration, of one `program_key`.
        received_signals: signals that came.
        micro_batch: replicas in one forward and backward pass; None: all, `auto`: as the device's rule says.

    Attributes:
        results: of the runs that have ended, by their place in `runs`, with their exit status.
        validation: the median of the runs' last validations.
    """

    def __init__(self, runs: list[Experiment], received_signals: list[int], micro_batch: int | str | None) -> None:
        self.runs, self.received_signals = runs, received_signals
        self.results: dict[int, dict[str, Any]] = {}
        first = runs[0]
        self.first, self.config, self.device, self.iterations = first, first.config, first.device, first.iterations
        self.micro_batch = self.device.replicas_at_once(first.learner, len(runs), micro_batch)
        passes = self.iterations * math.ceil(len(runs) / self.micro_batch)
        self.compiled = any(run.state.iteration and run.compiled for run in runs) or (
            not first.state.iteration and self.device.compiles(first.learner, passes, self.micro_batch)
        )
        for run in runs:
            run.received_signals, run.compiled, run.replicas = received_signals, self.compiled, len(runs)
        self.validation = median_validation(runs)
        self._train_seconds = first.train_seconds

    @property
    def active(self) -> list[int]:
        """The runs that have not ended."""
        return [r for r in range(len(self.runs)) if r not in self.results]

    def run(self) -> list[dict[str, Any]]:
        """Each run's result with its exit status.

        Raises:
            FusionError: the first step failed.
        """
        try:
            for run in self.runs:
                run.open()
            states, data = [run.state for run in self.runs], [run.data for run in self.runs]
            self.replicas = Replicas(states, data, self.first.meta_optimizer, self.micro_batch)
            title = f"{self.first.title}, {len(self.runs)} replicas"
            start, metric = self.first.state.iteration, self.first.data.metric
            between_steps(self.steps(), self, self.config, self.iterations, start, title, metric)
            self.test()
        except FusionError:
            raise
        except (Exception, KeyboardInterrupt) as error:
            for r in self.active:
                self._end(r, error)
        return [self.results[r] for r in range(len(self.runs))]

    def steps(self) -> Iterator[Steps]:
        """The outer steps that are left.

        Raises:
            FusionError: the first one failed.
        """
        steps = fit_together(
            self.replicas, self.iterations, self.config.meta_batch_size, self.device.task_micro_batch, self.compiled
        )
        try:
            first = next(steps, None)
        except RuntimeError as error:  # an operation that has no batched form
            if self.replicas.iteration:
                raise
            for run in self.runs:
                assert run.metrics is not None
                run.metrics.close()
                run.tracker.finish(1)
            raise FusionError(f"their program fails ({str(error).splitlines()[0]})") from error
        if first is not None:
            yield first
            yield from steps

    def test(self) -> None:
        """Evaluate all on the test tasks; each run's result is written.

        The weights that are tested go into the stacks, of which each learner's tensors are views.
        """
        self._each(lambda run, _: run.load_test_weights())
        if not self.active:
            return
        title = f"test, {self.first.title}, {len(self.runs)} replicas"
        with Progress(self.config.eval_tasks, title, self.first.data.metric) as progress:

            def on_block(done: int) -> None:
                progress.update(done)
                self.raise_if_stop_requested()

            evaluations = evaluate_replicas(
                self.replicas,
                "test",
                self.config.eval_tasks,
                self.config.curve_steps,
                on_block=on_block,
                task_micro_batch=self.device.task_micro_batch,
            )

        def report(run: Experiment, r: int) -> None:
            self.results[r] = finish(run, compute_result(run, evaluations[r]))

        self._each(report)

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
                self.active,
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
        evaluations = evaluate_replicas(
            self.replicas,
            "val",
            self.config.val_tasks,
            self.first.learner.eval_steps,
            curve=False,
            on_block=lambda _: self.raise_if_stop_requested(),
            task_micro_batch=self.device.task_micro_batch,
        )
        self.replicas.scatter_optimizer_state()
        self._each(lambda run, r: run.record_validation(iteration, evaluations[r].estimate().mean))
        self.validation = median_validation([self.runs[r] for r in self.active])

    def loss(self, step: Steps) -> float | None:
        return step.loss(self.active[0]) if self.active else None

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


def median_validation(runs: list[Experiment]) -> float | None:
    """The middle one of the runs' last validations; None before the first."""
    values = sorted(run.validation for run in runs if run.validation is not None)
    return values[len(values) // 2] if values else None
