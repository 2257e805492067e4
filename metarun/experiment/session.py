"""A run under way: its state, its folder, its trackers."""

from __future__ import annotations

import shutil
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from metarun.checks import is_number
from metarun.evaluation.estimate import Estimate
from metarun.evaluation.evaluate import Evaluation, evaluate
from metarun.experiment.attempts import Attempts
from metarun.experiment.build import Components, tested_name, tested_weights
from metarun.experiment.cell import RunSpec
from metarun.experiment.claim import reason
from metarun.experiment.errors import ConfigError, InterruptedRun
from metarun.experiment.start import extend, iterations_of, refuse_other_schedule, take_weights
from metarun.report.console import Progress, print_result
from metarun.run_folder import DamagedFileError, config_digests, read_result, read_tracker_ids, result_or_empty
from metarun.tasks import Split
from metarun.tracking.jsonl import MetricsFile
from metarun.tracking.trackers import Trackers, write_run_ids
from metarun.training import checkpoint
from metarun.training.compilation import CompilationError, OnFailure, warn_uncompiled
from metarun.training.distributed import SingleProcess
from metarun.training.loop import DivergenceError, TrainState

STEADY_AFTER = 10  # outer steps that do not count as steady: allocation, caches, compilation


class Experiment:
    """One run under way.

    Args:
        components: what its configuration stands for.
        spec: what it is.
        processes: the processes that share its meta-batches.
        received_signals: signals that came.

    Attributes:
        iterations: outer steps in all; 0 for a learner that is not trained, or is only tested.
        state: everything that training changes.
        best, validation: the best and the last validation's metric.
        losses: since the last line of metrics.
        replicas: runs trained in one program with it (metarun/fused/launcher.py).
        attempt: does what may fail without the run.
        config_digests: of the files that it was composed of, which its checkpoints and its result are bound to.

    Raises:
        ConfigError: it cannot start from the run that it names.
    """

    def __init__(
        self,
        components: Components,
        spec: RunSpec,
        processes: SingleProcess | None = None,
        received_signals: list[int] | None = None,
    ) -> None:
        self.spec, self.folder = spec, spec.folder
        self.config, self.device, self.data = components.config, components.device, components.data
        self.learner, self.meta_optimizer, self.seed = components.learner, components.meta_optimizer, components.seed
        self.processes = processes or SingleProcess()
        self.received_signals = [] if received_signals is None else received_signals
        self.iterations = self.config.iterations if self.learner.stages and not self.config.evaluate else 0
        self.device.set_up()
        try:
            self.state = TrainState.create(self.learner, self.meta_optimizer, self.device.torch_device, self.seed)
        except ValueError as error:  # an optimizer checks its arguments as it is made
            raise ConfigError(str(error)) from error
        self.losses: list[float] = []
        self.best: float | None = None
        self.validation: float | None = None
        self.train_seconds = 0.0
        self.compile_seconds = 0.0
        self.test_seconds: float | None = None  # None: not tested
        try:
            self.compiled = self.device.compiles(self.learner, self.iterations, fixed_shapes=self.data.fixed_shapes)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.step_seconds: deque[float] = deque(maxlen=5000)
        self.tracker: Trackers = components.tracker
        self.metrics: MetricsFile | None = None
        self.replicas = 1
        self.attempt = Attempts(self.folder)
        self.config_digests = config_digests(self.folder)
        self._load_start()

    @property
    def title(self) -> str:
        return self.spec.title

    # ---------------------------------------------------------------------------------------- where it starts

    def _load_start(self) -> None:
        """Load the state of this run, or weights of another, where one is named; before anything starts."""
        own = self.folder / "checkpoint"
        source = self.config.evaluate or self.config.init_from
        if own.exists() and not own.is_dir():
            raise ConfigError(f"{own} must be a folder of checkpoints. Delete it, and the run begins anew")
        try:
            if self.config.resume and checkpoint.exists(own, "last"):
                self._restore(checkpoint.load(own, "last"))
            elif self.config.evaluate:
                self._load_weights(Path(self.config.evaluate))
            elif source:  # also of a run that was killed before its first checkpoint
                take_weights(self.learner, tested_weights(Path(source)), Path(source))
        except checkpoint.CheckpointError as error:
            folder = self.folder if self.config.resume else Path(source or "")
            raise ConfigError(f"{error}. {what_is_left(folder)}") from error
        except (RuntimeError, FileNotFoundError) as error:
            reason = " ".join(str(error).split())  # torch has a line for each tensor
            raise ConfigError(f"cannot start from {self.config.resume or source}: {reason}") from error

    def _load_weights(self, source: Path) -> None:
        weights = tested_weights(source)
        checkpoint.require_weights(source / "checkpoint", weights, self.learner.state_dict(), precision=False)
        self.learner.load_state_dict(weights)

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        """Load a checkpoint of this run, all of which is checked before anything is changed."""
        if self.iterations > iterations_of(self.folder):
            refuse_other_schedule(self.learner, self.iterations)
        details, folder = saved.details, self.folder / "checkpoint"
        checkpoint.require_details(folder, details)
        stem = folder / details["files"]
        checkpoint.require_weights(
            stem.with_suffix(".safetensors"), saved.weights, self.learner.state_dict(), precision=True
        )
        checkpoint.require_state(stem.with_suffix(".state"), saved, self.state.optimizers, self.state.generator_names())
        self.learner.load_state_dict(saved.weights)
        self.state.load_state_dict(saved.state)
        self.best, self.validation = details["best"], details["last_metric"]
        self.train_seconds, self.compiled = details["train_seconds"], details["compiled"]
        self.losses = details["losses"]

    def prepare_folder(self) -> dict[str, Any] | None:
        """Remove leftovers of an earlier run so they cannot be resumed, unless this one resumes it.

        Returns:
            The result of a resumed run that is completed already, with its exit status; None: there is work to do.

        Raises:
            ConfigError: the result of a resumed run is damaged, or the folder cannot be written.
        """
        with refused_if_it_fails():
            return self._prepare_folder()

    def _prepare_folder(self) -> dict[str, Any] | None:
        if not self.config.resume:
            shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)
            (self.folder / "result.json").unlink(missing_ok=True)
        elif self.iterations > iterations_of(self.folder):
            extend(self.folder, self.iterations)
        elif (self.folder / "result.json").exists():
            result = read_result(self.folder)
            if result["status"] == "completed" and (result["iterations"] or 0) >= self.iterations:
                print(f"metarun: the run in {self.folder} is completed, there is nothing to resume")
                print_result(result, self.folder)
                return {**result, "exit_status": 0}
        return None

    def open(self) -> None:
        """Load the data, open metrics.jsonl, start the trackers.

        Raises:
            DataError, TrackerError, ConfigError: nothing can start.
        """
        with refused_if_it_fails():
            self.data.prepare(self.needed())
            if self.iterations:
                self.learner.check_data(self.data)
            self.metrics = MetricsFile(self.folder / "metrics.jsonl")
            self._cut_metrics()  # before the tracker starts, which reads it on resume
            self._start_tracker()
        if not self.iterations:  # untrained or only tested: the weights that are tested are kept all the same
            self.save("last")

    def _cut_metrics(self) -> None:
        assert self.metrics is not None
        try:
            self.metrics.cut(self.state.iteration)
        except ValueError as error:
            raise ConfigError(f"{error}. Delete the line, or the file: the run goes on without") from error

    def needed(self) -> dict[Split, set[str]]:
        """The streams that this run draws from each split: nothing else of the data is asked for."""
        evaluation = {self.learner.evaluation_stream_for(self.data)}
        needed: dict[Split, set[str]] = {"test": evaluation}
        if self.iterations:
            needed["train"] = {stage.stream for stage in self.learner.stages}
        if self.iterations or self.data.kind == "verification":  # whose threshold is chosen there
            needed["val"] = evaluation
        return needed

    def _start_tracker(self) -> None:
        file = self.folder / "checkpoint" / "tracker.json"
        known = read_tracker_ids(file)
        choices = self.spec.choices
        config: Any = OmegaConf.to_container(self.spec.cfg, resolve=True)
        name = f"{choices['data']}/{choices['algo']}/{self.folder.name}"
        tags = [choices["algo"], choices["data"], choices["backbone"]]
        self.tracker.start(self.folder, {**config, "choices": choices}, name, self.spec.sweep, tags, known)
        if self.tracker.run_ids != known:
            write_run_ids(file, self.tracker.run_ids)

    # --------------------------------------------------------------------------------------- between two steps

    def go_on_uncompiled(self, error: CompilationError) -> None:
        """Torch cannot compile the step: say so, and keep that the run is not compiled."""
        warn_uncompiled(str(error).removeprefix("torch cannot compile: "))
        self.compiled = False

    @property
    def on_compilation_failure(self) -> OnFailure | None:
        """What to do where torch cannot compile; None: end the run, since the user asked for it by name."""
        return self.go_on_uncompiled if self.device.compile == "auto" else None

    def record_step(self, index: int, seconds: float, loss: float) -> None:
        """Record a step: its index in this process, duration, loss."""
        if index == 0 and self.compiled:
            self.compile_seconds = seconds
        if index >= STEADY_AFTER or index > self.iterations // 2:
            self.step_seconds.append(seconds)
        self.losses.append(loss)

    def log(self, iteration: int, metric: float | None, diagnostics: dict[str, float]) -> None:
        """Write a line of metrics.

        Args:
            iteration: outer steps done.
            metric: the headline metric on the step's own tasks; None: it cannot be had.
            diagnostics: the learner's.
        """
        values = {"train/loss": sum(self.losses) / len(self.losses)}
        self.losses = []
        if metric is not None:
            values[f"train/{self.data.metric}"] = metric
        if self.step_seconds:
            values["time/iterations_per_second"] = 1 / float(np.median(self.step_seconds))
        self._record({**values, **{f"learner/{name}": value for name, value in diagnostics.items()}}, iteration)

    def _record(self, values: dict[str, float], iteration: int) -> None:
        values = {**values, "time/train_seconds": self.train_seconds}
        assert self.metrics is not None
        self.metrics.log(values, iteration)
        self.tracker.log(values, iteration)

    def record_validation(self, iteration: int, estimate: Estimate) -> None:
        """Record a validation's metric; the best weights so far are kept as checkpoint `best`.

        One with a task that is not finite has no mean, and is never the best; the number of such tasks is recorded.
        """
        self.validation = value = estimate.mean
        count = {"val/not_finite": float(estimate.not_finite)} if estimate.not_finite else {}
        self._record({f"val/{self.data.metric}": value, **count}, iteration)
        better = self.best is None or (value > self.best if self.data.higher_is_better else value < self.best)
        if better and np.isfinite(value):
            self.best = value
            if self.config.test_weights == "best":
                self.save("best")

    def save(self, name: str) -> None:
        """Write a checkpoint, unless the weights are not finite: the last good one stays.

        Raises:
            DivergenceError: a meta-parameter is NaN or infinite.
        """
        weights = self.learner.state_dict()
        if not all(bool(torch.isfinite(w).all()) for w in weights.values()):
            raise DivergenceError(self.state.iteration, "a meta-parameter became NaN or infinite")
        details = {
            "best": self.best,
            "last_metric": self.validation,
            "residual_variance": self._validation_error() if self.data.kind == "regression" else None,
            "train_seconds": self.train_seconds,
            "compiled": self.compiled,
            "losses": self.losses,
        }
        state = self.state.state_dict()
        place, iteration = self.folder / "checkpoint", self.state.iteration
        checkpoint.save(place, name, iteration, weights, state, details, self.config_digests)

    def stop_requested(self) -> bool:
        """Whether any process of the run got a signal: asked between two steps by all, who get the same answer."""
        requested = self.processes.all_reduce_any(bool(self.received_signals))
        if requested and not self.received_signals:
            self.received_signals.append(signal.SIGTERM)
        return requested

    def raise_if_stop_requested(self, *_: int) -> None:
        """End the run at this safe point if a signal came.

        Raises:
            InterruptedRun: one came.
        """
        if self.received_signals:
            raise InterruptedRun(self.received_signals[0])

    @contextmanager
    def checkpoint_on_error(self) -> Iterator[None]:
        """Inside, an error between or before steps (memory, another process lost) leaves a checkpoint to resume."""
        try:
            yield
        except RuntimeError:
            if self.state.consistent and self.state.iteration:
                with suppress(Exception):  # the first error is the one to tell
                    self.save("last")
            raise

    # ----------------------------------------------------------------------------------------------- testing

    def evaluate(self, split: Split, tasks: int, steps: int, what: str) -> Evaluation:
        """Evaluate the learner on held-out tasks, with a progress bar.

        Args:
            split: `val` or `test`; with the latter the metric is taken after each number of steps.
            tasks, steps: see `metarun.evaluation.evaluate.evaluate`.
            what: it is for, to show.

        Raises:
            InterruptedRun: a signal came.
        """
        with Progress(tasks, f"{what}, {self.title}", self.data.metric) as progress:

            def on_block(done: int) -> None:
                progress.update(done)
                self.raise_if_stop_requested()

            size = self.device.task_micro_batch
            return evaluate(
                self.learner, self.data, split, tasks, steps, size, curve=split == "test", on_block=on_block
            )

    def load_test_weights(self) -> None:
        """Load the weights that the test is made with: the best, or where none were kept, the last."""
        if self.iterations:
            self.learner.load_state_dict(tested_weights(self.folder))
        if self.data.kind == "regression":
            self.learner.residual_variance.fill_(self._validation_error() or torch.nan)

    def tested_weights_digest(self) -> dict[str, str]:
        """SHA-256 of the file whose weights were tested, by its name in the folder; empty where nobody knows."""
        try:
            details = checkpoint.read_pointer(self.folder / "checkpoint", tested_name(self.folder))
        except (OSError, checkpoint.CheckpointError):
            return {}
        file = f"{details['files']}.safetensors"
        digests = details.get("sha256", {})
        return {f"checkpoint/{file}": digests[file]} if file in digests else {}

    def _validation_error(self) -> float | None:
        """Mean squared error of the tested weights on validation tasks, where it is known."""
        if self.config.evaluate:
            validation = result_or_empty(Path(self.config.evaluate)).get("validation")
            best = validation.get("best") if isinstance(validation, dict) else None
            return best if is_number(best) else None
        return self.best if checkpoint.exists(self.folder / "checkpoint", "best") else self.validation


@contextmanager
def refused_if_it_fails() -> Iterator[None]:
    """Inside, before the start, what the file system refuses and what is damaged refuses the run.

    Raises:
        ConfigError: something did.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot start: {reason(error)}") from error
    except DamagedFileError as error:
        raise ConfigError(str(error)) from error


def what_is_left(folder: Path) -> str:
    """What can still be done with a run one of whose checkpoints cannot be used, for people."""
    place = folder / "checkpoint"
    again = f"To run it anew, delete {place} and resume it"
    if checkpoint.is_whole(place, "best"):
        return f"Its checkpoint `best` is whole: run.evaluate={folder} tests it. {again}"
    if checkpoint.is_whole(place, "last"):
        return f"Its checkpoint `last` is whole: run.evaluate={folder} tests it once best.json is deleted. {again}"
    return again
