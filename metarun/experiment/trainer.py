"""The training of one run: the loop's outer steps, and between them what `cadence` says."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from metarun.evaluation.evaluate import evaluate_batch, has_headline_metric
from metarun.experiment.cadence import between_steps
from metarun.experiment.session import Experiment
from metarun.training.loop import Step, fit


class Trainer:
    """One run's side of `metarun.experiment.cadence.Between`.

    Args:
        experiment: the run.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    def train(self) -> None:
        """Take the outer steps that are left, with logging, validation and checkpoints between two of them.

        Raises:
            CompilationError: torch cannot compile, and is told to.
            DivergenceError: a loss or a meta-parameter is NaN or infinite.
            InterruptedRun: a signal came.
        """
        run = self.experiment
        between_steps(self.steps(), self, run.config, run.iterations, run.state.iteration, run.title, run.data.metric)

    def steps(self) -> Iterator[Step]:
        """The outer steps that are left."""
        run = self.experiment
        return fit(
            run.state,
            run.data,
            run.meta_optimizer,
            run.iterations,
            run.config.meta_batch_size,
            run.device.task_micro_batch,
            run.compiled,
            run.processes,
            run.on_compilation_failure,
        )

    def work(self) -> None:
        """Take the outer steps, and do nothing else: what a process does that is not the first.

        Raises:
            DivergenceError, InterruptedRun: as in the first.
            RuntimeError: another process is gone.
        """
        self.experiment.data.prepare({"train": self.experiment.needed().get("train", ())})
        self.experiment.learner.check_data(self.experiment.data)
        for _ in self.steps():
            if self.stop_requested():
                self.raise_if_stop_requested()

    # ------------------------------------------------------------------------------------- between two steps

    @property
    def train_seconds(self) -> float:
        return self.experiment.train_seconds

    @train_seconds.setter
    def train_seconds(self, seconds: float) -> None:
        self.experiment.train_seconds = seconds

    @property
    def validation(self) -> float | None:
        return self.experiment.validation

    @property
    def compiled(self) -> bool:
        return self.experiment.compiled

    def record_step(self, index: int, step: Step) -> None:
        self.experiment.record_step(index, step.seconds, step.loss)

    def log(self, step: Step) -> None:
        self.experiment.log(step.iteration, self.train_metric(step), self.diagnostics())

    def validate(self, iteration: int) -> None:
        run = self.experiment
        evaluation = run.evaluate("val", run.config.val_tasks, run.learner.eval_steps, "validation")
        run.record_validation(iteration, evaluation.estimate())

    def loss(self, step: Step) -> float:
        return step.loss

    def save(self) -> None:
        self.experiment.save("last")

    def stop_requested(self) -> bool:
        return self.experiment.stop_requested()

    def raise_if_stop_requested(self) -> None:
        self.experiment.raise_if_stop_requested()

    def train_metric(self, step: Step) -> float | None:
        """The headline metric on the step's own tasks; None for a batch of another kind."""
        run = self.experiment
        if not has_headline_metric(run.data.kind, step.batch):
            return None
        run.learner.eval()
        values = evaluate_batch(
            run.learner,
            run.data.kind,
            step.batch,
            step.random_inputs,
            run.learner.inner_steps,
            run.device.task_micro_batch,
            curve=False,
        )
        run.learner.train()
        return float(values[run.data.metric][:, -1].mean())

    def diagnostics(self) -> dict[str, float]:
        """The learner's, as numbers."""
        with torch.no_grad():
            return {name: float(value) for name, value in self.experiment.learner.diagnostics().items()}
