"""One experiment: configuration -> objects -> fit -> evaluate -> result. Only this module sees both sides.

Below it nothing knows of Hydra; above it nothing knows of torch's objects.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarun import checkpoint, verification
from metarun.algos.learner import Learner
from metarun.backbones.drop_block import drop_blocks
from metarun.calibration import Calibration, calibration
from metarun.conf_files import describe, names
from metarun.device import Device, peak_memory_mb
from metarun.distributed import Alone, joined
from metarun.evaluate import Evaluation, evaluate, evaluate_batch, judges
from metarun.loop import Diverged, OuterOptimizer, Step, Training, fit
from metarun.metrics import PAIRS
from metarun.results import read_result, write_atomically, write_json, write_text
from metarun.tasks.task import DataError, TaskSet
from metarun.tracking.console import Progress, print_line, print_result
from metarun.tracking.jsonl import MetricsFile
from metarun.tracking.tracker import Tracker, TrackerError

STEADY_AFTER = 10  # outer steps that do not count as steady: allocation, caches, compilation


class Refused(ValueError):
    """The configuration makes no sense; said before anything starts."""


class Interrupted(Exception):
    """Stopped by a signal; the folder can be resumed."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_status = 128 + signum


@dataclass
class Options:
    """The `run` group, checked. Units and meanings stand in conf/config.yaml."""

    iterations: int
    meta_batch: int
    eval_tasks: int
    val_tasks: int
    validate_every: int
    log_every: int
    curve_steps: int
    checkpoint_seconds: float
    keep: str
    resume: str | None
    init_from: str | None
    evaluate: str | None

    def __post_init__(self) -> None:
        for name in ("iterations", "meta_batch", "eval_tasks", "val_tasks", "validate_every", "log_every"):
            if not isinstance(value := getattr(self, name), int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"run.{name} must be a whole number of at least 1; got {value!r}")
        if not isinstance(self.curve_steps, int) or self.curve_steps < 0:
            raise ValueError(f"run.curve_steps must be a whole number of at least 0; got {self.curve_steps!r}")
        if not isinstance(self.checkpoint_seconds, int | float) or self.checkpoint_seconds < 0:
            raise ValueError(f"run.checkpoint_seconds must be seconds, at least 0; got {self.checkpoint_seconds!r}")
        if self.keep not in ("best", "last"):
            raise ValueError(f"run.keep must be best or last; got {self.keep!r}")


@dataclass
class Parts:
    """What a configuration stands for."""

    options: Options
    device: Device
    data: TaskSet
    learner: Learner
    outer: OuterOptimizer
    tracker: Tracker
    seed: int


# ----------------------------------------------------------------------------- from configuration to objects


def build(cfg: DictConfig, choices: dict[str, str]) -> Parts:
    """The objects of a configuration; touches no data.

    Args:
        cfg: the composed configuration.
        choices: the chosen name of each group (`algo`, `data`, `backbone`, ...), for messages.

    Raises:
        Refused: a value or a combination makes no sense; the message names the argument.
    """
    try:
        options = Options(**cfg.run)
        if not isinstance(cfg.seed, int) or isinstance(cfg.seed, bool):
            raise ValueError(f"seed must be a whole number; got {cfg.seed!r}")
        device = Device(**cfg.device)
        data = instantiate(cfg.data, device=device.torch_device, _convert_="all")
        learner_class = _class(cfg.algo)
        _refuse_mismatch(learner_class, data, choices)
        torch.manual_seed(cfg.seed)
        learner = _build_learner(cfg, data, choices).to(device.torch_device, device.dtype)
        outer = instantiate(cfg.optimizer, _convert_="all")
        tracker = instantiate(cfg.tracker, _convert_="all")
    except InstantiationException as error:
        raise Refused(str(error.__cause__ or error)) from error
    except (ValueError, TypeError, OmegaConfBaseException) as error:
        raise Refused(str(error)) from error
    return Parts(options, device, data, learner, outer, tracker, cfg.seed)


def _build_learner(cfg: DictConfig, data: TaskSet, choices: dict[str, str]) -> Learner:
    """The learner, on the CPU.

    Raises:
        ValueError: its weights do not fit the training tasks, or it has no use for what the backbone brings.
    """
    learner_class = _class(cfg.algo)
    stream = learner_class.stream_on(data)
    outputs = data.outputs("test", stream)
    offered: dict[str, Any] = {
        "backbone": partial(instantiate(cfg.backbone, _partial_=True, _convert_="all"), data.in_shape(stream)),
        "outputs": outputs,
        "ways": outputs,
        "loss": data.loss,
    }
    wanted = signature(learner_class).parameters
    given = {name: value for name, value in offered.items() if name in wanted}
    learner: Learner = instantiate(cfg.algo, **given, _convert_="all")
    if "outputs" in wanted and learner.stages and data.outputs("train", learner.stages[-1].stream) != outputs:
        raise ValueError(
            f"data.train_ways must be data.ways={outputs} for algo={choices['algo']}, whose last layer "
            f"has one unit for each way; got {data.outputs('train', learner.stages[-1].stream)}"
        )
    if drop_blocks(learner) and not learner.draws_masks:
        raise ValueError(f"backbone.drop_rate must be 0 for algo={choices['algo']}, which draws no masks to drop by")
    return learner


def _class(config: Mapping[str, Any]) -> Any:
    return get_class(config["_target_"])


def _refuse_mismatch(learner: type[Learner], data: TaskSet, choices: dict[str, str]) -> None:
    """Refuse an algorithm on data whose tasks or streams it cannot use, and name the data that it can."""

    def streams(tasks: TaskSet | type[TaskSet]) -> set[str]:
        return {stage.stream for stage in learner.stages} | {learner.stream_on(tasks)}

    def fits(tasks: TaskSet | type[TaskSet]) -> bool:
        return tasks.kind in learner.takes and streams(tasks) <= set(tasks.offers)

    if fits(data):
        return
    fitting = [name for name in names("data") if fits(_class(describe("data", name)))]
    reason = (
        f"{choices['algo']} is for {' and '.join(learner.takes)}, {choices['data']} is {data.kind}"
        if data.kind not in learner.takes
        else f"{choices['algo']} needs the streams {', '.join(sorted(streams(data)))}; "
        f"{choices['data']} offers {', '.join(data.offers)}"
    )
    raise ValueError(
        f"algo={choices['algo']} cannot run on data={choices['data']}: {reason}. It runs on {', '.join(fitting)}."
    )


def saved_config(folder: Path) -> tuple[DictConfig, dict[str, str]]:
    """The configuration a run was started with, and its chosen groups.

    Raises:
        Refused: there is no run in that folder.
    """
    if not (folder / ".hydra" / "config.yaml").is_file():
        raise Refused(f"{folder} is no run's folder: it has no .hydra/config.yaml")
    cfg = OmegaConf.load(folder / ".hydra" / "config.yaml")
    chosen = OmegaConf.load(folder / ".hydra" / "hydra.yaml").hydra.runtime.choices
    assert isinstance(cfg, DictConfig)
    return cfg, {str(group): str(name) for group, name in chosen.items()}


def load(path: str | Path) -> Learner:
    """The trained learner of a run's folder, in evaluation mode, ready for `adapt(support)` or `verify(pairs)`.

    Args:
        path: the run's folder. Its data need not be there.

    Raises:
        Refused: no run there.
        FileNotFoundError: the run has no checkpoint.
    """
    folder = Path(path)
    cfg, choices = saved_config(folder)
    cfg.device.name = "auto"
    with torch.random.fork_rng(devices=[]):  # drawing initial weights must not reseed the caller
        learner = build(cfg, choices).learner
    learner.load_state_dict(_weights(folder))
    return learner.eval()


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights a finished run is judged by: its best, or where it kept none, its last."""
    name = "best" if checkpoint.exists(folder / "checkpoint", "best") else "last"
    return checkpoint.load(folder / "checkpoint", name).weights


# -------------------------------------------------------------------------------------------- one experiment


def run(
    cfg: DictConfig, choices: dict[str, str], folder: Path, overrides: list[str], group: str | None = None
) -> dict[str, Any]:
    """Train, evaluate, and leave a folder that says everything about it.

    Args:
        cfg: the composed configuration (of a resumed run: the saved one, with `run.resume` set).
        choices: the chosen name of each group.
        folder: the run's folder.
        overrides: what the command line changed.
        group: the sweep that the run belongs to; None: none.

    Returns:
        The content of `result.json`, with `exit_status` beside it (0, 1, 3, 130 or 143; see design).

    Raises:
        Refused: before anything started.
    """
    with begun(cfg, choices, folder, overrides, group) as job:
        return job.run()


def follow(cfg: DictConfig, choices: dict[str, str], folder: Path) -> dict[str, Any]:
    """Take part in the outer steps of a run that another process writes, tests and ends (metarun/distributed.py).

    Args:
        cfg, choices: as of that run.
        folder: where to resume from, if it is resumed.

    Returns:
        `exit_status` and `mean`, as `run`: 0 however the run ends, but 1 where the other process is gone.

    Raises:
        Refused: before anything started.
    """
    with begun(cfg, choices, folder, [], None) as job:
        try:
            job.take_part()
        except (Diverged, Interrupted):
            pass  # process 0 says so
        except RuntimeError as error:
            print(f"metarun: process {job.world.rank} stops: {error}", file=sys.stderr)
            return {"exit_status": 1, "mean": None}
    return {"exit_status": 0, "mean": None}


@contextmanager
def begun(
    cfg: DictConfig, choices: dict[str, str], folder: Path, overrides: list[str], group: str | None
) -> Iterator[Job]:
    """A job whose processes know each other, and that takes note of signals."""
    parts = build(cfg, choices)
    with joined(parts.device.torch_device) as world, signals() as caught:
        job = Job(parts, cfg, choices, folder, overrides, group)
        job.world, job.caught = world, caught
        if parts.options.meta_batch < world.size:
            raise Refused(
                f"run.meta_batch must be at least {world.size}, a task for each process; got {parts.options.meta_batch}"
            )
        yield job


class Job:
    """One experiment under way. Its parts change; `result` says how it ended."""

    def __init__(
        self,
        parts: Parts,
        cfg: DictConfig,
        choices: dict[str, str],
        folder: Path,
        overrides: list[str],
        group: str | None,
    ) -> None:
        self.parts = parts
        self.options, self.device, self.data = parts.options, parts.device, parts.data
        self.learner, self.outer, self.seed = parts.learner, parts.outer, parts.seed
        self.cfg, self.choices, self.folder, self.overrides, self.group = cfg, choices, folder, overrides, group
        self.iterations = self.options.iterations if self.learner.stages and not self.options.evaluate else 0
        self.device.set_up()
        self.training = Training.begin(self.learner, self.outer, self.device.torch_device, self.seed)
        self.caught: list[int] = []
        self.losses: list[float] = []  # since the last logged line
        self.best: float | None = None
        self.last_metric: float | None = None
        self.train_seconds = 0.0
        self.compile_seconds = 0.0
        self.compiled = self.device.compiles(self.learner, self.iterations, steady=self.data.steady)
        self.step_seconds: deque[float] = deque(maxlen=5000)
        self.tracker: Tracker | None = None
        self.metrics: MetricsFile | None = None
        self.replicas = 1  # trained in one program with it (metarun/fused.py)
        self.world = Alone()  # the processes that share its meta-batches
        self._load_start()

    def _load_start(self) -> None:
        """State of this run, or weights of another, where one is named; all of it before anything starts."""
        own = self.folder / "checkpoint"
        source = self.options.evaluate or self.options.init_from
        try:
            if self.options.resume and checkpoint.exists(own, "last"):
                self._restore(checkpoint.load(own, "last"))
            elif source:  # also of a run that was killed before its first checkpoint
                self.learner.load_state_dict(_weights(Path(source)))
                if not self.options.evaluate:
                    self.learner.progress.zero_()
        except (RuntimeError, FileNotFoundError) as error:
            raise Refused(f"cannot start from {self.options.resume or source}: {error}") from error

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        self.learner.load_state_dict(saved.weights)
        self.training.load_state_dict(saved.state)
        self.best, self.last_metric = saved.about["best"], saved.about["last_metric"]
        self.train_seconds, self.compiled = saved.about["train_seconds"], saved.about["compiled"]
        self.losses = saved.about["losses"]

    # --------------------------------------------------------------------------------------- the whole of it

    def run(self) -> dict[str, Any]:
        """Everything from the first draw to the last file; failures end in `result.json` too."""
        if done := self.begin():
            return done
        try:
            self.open()
            with self.kept_if_it_fails():
                self._train()
            result, exit_status = self.report(self._test()), 0
        except (Exception, KeyboardInterrupt) as error:
            result, exit_status = self.failure(error)
        return self.close(result, exit_status)

    def begin(self) -> dict[str, Any] | None:
        """Clear the folder; of a resumed run that is completed, its result, which needs no going on with."""
        if not self.options.resume:
            self._clear()
        elif (self.folder / "result.json").is_file() and read_result(self.folder)["status"] == "completed":
            done = read_result(self.folder)
            print(f"metarun: the run in {self.folder} is completed, there is nothing to go on with")
            print_result(done, self.folder)
            return {**done, "exit_status": 0}
        return None

    def open(self) -> None:
        """Load the data, open metrics.jsonl, start the tracker.

        Raises:
            DataError, TrackerError: nothing can start.
        """
        self.data.prepare()
        self.metrics = MetricsFile(self.folder / "metrics.jsonl")
        self.metrics.cut(self.training.iteration)  # before the tracker starts, which reads it on resume
        self._start_tracker()
        if not self.iterations:  # untrained or only tested: the weights that are tested are kept all the same
            self.save("last")

    def failure(self, error: BaseException) -> tuple[dict[str, Any], int]:
        """What `result.json` says of an error that ended the run, and the exit status.

        Raises:
            Refused: data or tracker would not start.
        """
        if isinstance(error, Diverged):
            return {"status": "diverged", "error": str(error), "iteration": error.iteration}, 3
        here = {"iteration": self.training.iteration}
        if isinstance(error, Interrupted | KeyboardInterrupt):
            status = getattr(error, "exit_status", 130)
            return {"status": "interrupted", "error": str(error) or "stopped", **here}, status
        if isinstance(error, DataError | TrackerError):
            if self.metrics is not None:
                self.metrics.close()
            if self.tracker is not None:
                self.tracker.finish(2)
            raise Refused(str(error)) from error
        text = "".join(traceback.format_exception(error))
        with (self.folder / "metarun.log").open("a") as log:  # the run's log; several cells may share a logger
            log.write(text)
        return {"status": "failed", "error": f"{type(error).__name__}: {error}", "traceback": text, **here}, 1

    def close(self, result: dict[str, Any], exit_status: int) -> dict[str, Any]:
        """Write `result.json`, finish the tracker, print the result; returns it with the exit status."""
        result = {**self._facts(), "status": "completed", **result}
        try:
            if self.metrics is not None:
                self.metrics.close()
            write_json(self.folder / "result.json", result)
        except OSError as error:  # a full disk: the checkpoint is whole, and the run can go on from it
            print(f"metarun: cannot write {self.folder / 'result.json'}: {error}", file=sys.stderr)
            exit_status = exit_status or 1
        if self.tracker is not None:
            self.tracker.summary(result)
            if exit_status == 0:
                self.tracker.artifact(self.folder / "checkpoint")
            self.tracker.finish(exit_status)
        if self.group is None:
            print_result(result, self.folder)
        else:  # a multirun ends in a table of all
            print_line(result, self.folder)
        return {**result, "exit_status": exit_status}

    def _clear(self) -> None:
        """Drop what an earlier run left here, lest it be resumed from or taken for this one's result."""
        shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)
        (self.folder / "result.json").unlink(missing_ok=True)

    def _start_tracker(self) -> None:
        self.tracker = tracker = self.parts.tracker
        about = self.folder / "checkpoint" / "tracker.json"
        run_id = about.read_text().strip() if about.is_file() else None
        config = {**OmegaConf.to_container(self.cfg, resolve=True), "choices": self.choices}  # type: ignore[dict-item]
        name = f"{self.choices['data']}/{self.choices['algo']}/{self.folder.name}"
        tags = [self.choices["algo"], self.choices["data"], self.choices["backbone"]]
        tracker.start(self.folder, config, name, self.group, tags, run_id)
        if tracker.run_id and not about.is_file():
            write_text(about, tracker.run_id)

    # ---------------------------------------------------------------------------------------------- training

    def _train(self) -> None:
        """Fit, with logging, validation and checkpoints between two steps."""
        began, before = time.perf_counter(), self.train_seconds
        last_save = began
        steps = self._steps()
        with Progress(self.iterations, self.title, self.data.metric, self.training.iteration) as progress:
            progress.update(self.training.iteration, metric=self.last_metric)
            for number, step in enumerate(steps):
                self.count(number, step.seconds, step.loss)
                self.train_seconds = before + time.perf_counter() - began
                if self.due(step.iteration, self.options.log_every):
                    self.log(step.iteration, self._train_metric(step), self._told())
                if self.due(step.iteration, self.options.validate_every):
                    scores = self._evaluate("val", self.options.val_tasks, self.learner.eval_steps, "validation")
                    self.take_validation(step.iteration, scores.estimate().mean)
                self.train_seconds = before + time.perf_counter() - began
                progress.update(step.iteration, loss=step.loss, metric=self.last_metric)
                asked = self.asked_to_stop()
                late = time.perf_counter() - last_save >= self.options.checkpoint_seconds
                if late or asked or step.iteration == self.iterations:
                    self.save("last")
                    last_save = time.perf_counter()
                if asked:
                    self.stop_if_asked()

    def _steps(self) -> Iterator[Step]:
        return fit(
            self.training,
            self.data,
            self.outer,
            self.iterations,
            self.options.meta_batch,
            self.device.task_chunk,
            self.compiled,
            self.world,
        )

    def take_part(self) -> None:
        """The outer steps, and nothing else: what a process does that is not the first.

        Raises:
            Diverged, Interrupted: as in the first.
            RuntimeError: another process is gone.
        """
        self.data.prepare()
        for _ in self._steps():
            if self.asked_to_stop():
                self.stop_if_asked()

    def asked_to_stop(self) -> bool:
        """Whether any process of the run got a signal: asked between two steps by all, who get the same answer."""
        asked = self.world.any(bool(self.caught))
        if asked and not self.caught:
            self.caught.append(signal.SIGTERM)
        return asked

    @contextmanager
    def kept_if_it_fails(self) -> Iterator[None]:
        """Inside, an error between or before steps leaves a checkpoint to go on from: memory, another process lost."""
        try:
            yield
        except RuntimeError:
            if self.training.whole and self.training.iteration:
                with suppress(Exception):  # the first error is the one to tell
                    self.save("last")
            raise

    @property
    def title(self) -> str:
        return f"{self.choices['algo']} on {self.choices['data']}"

    def due(self, iteration: int, every: int) -> bool:
        """Whether what happens every so many outer steps, and after the last, happens now."""
        return iteration % every == 0 or iteration == self.iterations

    def count(self, number: int, seconds: float, loss: float) -> None:
        """Take note of a step: the how-manieth of this process, its time, its loss."""
        if number == 0 and self.compiled:
            self.compile_seconds = seconds
        if number >= STEADY_AFTER or number > self.iterations // 2:
            self.step_seconds.append(seconds)
        self.losses.append(loss)

    def _train_metric(self, step: Step) -> float | None:
        """The headline metric on the step's own tasks; None for a batch that it cannot be had of."""
        if not judges(self.data.kind, step.batch):
            return None
        self.learner.eval()
        scores = evaluate_batch(
            self.learner,
            self.data.kind,
            step.batch,
            step.noise,
            self.learner.inner_steps,
            self.device.task_chunk,
            curve=False,
        )
        self.learner.train()
        return float(scores[self.data.metric][:, -1].mean())

    def _told(self) -> dict[str, float]:
        with torch.no_grad():
            return {name: float(value) for name, value in self.learner.inspect().items()}

    def log(self, iteration: int, metric: float | None, told: dict[str, float]) -> None:
        """A line of metrics: mean loss since the last one, the training metric, what the learner tells of itself."""
        values = {"train/loss": sum(self.losses) / len(self.losses)}
        self.losses = []
        if metric is not None:
            values[f"train/{self.data.metric}"] = metric
        if self.step_seconds:
            values["time/iterations_per_second"] = 1 / float(np.median(self.step_seconds))
        self._record({**values, **{f"learner/{name}": value for name, value in told.items()}}, iteration)

    def _record(self, values: dict[str, float], iteration: int) -> None:
        values = {**values, "time/train_seconds": self.train_seconds}
        assert self.metrics is not None and self.tracker is not None
        self.metrics.log(values, iteration)
        self.tracker.log(values, iteration)

    def take_validation(self, iteration: int, value: float) -> None:
        """Record the validation's score; the best weights so far are kept as checkpoint `best`."""
        self.last_metric = value
        self._record({f"val/{self.data.metric}": value}, iteration)
        better = self.best is None or (value > self.best if self.data.higher_is_better else value < self.best)
        if better and np.isfinite(value):
            self.best = value
            if self.options.keep == "best":
                self.save("best")

    def save(self, name: str) -> None:
        """Write a checkpoint, unless the weights are already poisoned: the last good one stays.

        Raises:
            Diverged: a meta-parameter is NaN or infinite.
        """
        weights = self.learner.state_dict()
        if not all(bool(torch.isfinite(w).all()) for w in weights.values()):
            raise Diverged(self.training.iteration, "a meta-parameter became NaN or infinite")
        about = {
            "best": self.best,
            "last_metric": self.last_metric,
            "train_seconds": self.train_seconds,
            "compiled": self.compiled,
            "losses": self.losses,
        }
        state = self.training.state_dict()
        checkpoint.save(self.folder / "checkpoint", name, self.training.iteration, weights, state, about)

    def stop_if_asked(self, *_: int) -> None:
        """A safe point: a signal that came ends the run here."""
        if self.caught:
            raise Interrupted(self.caught[0])

    # ----------------------------------------------------------------------------------------------- testing

    def _evaluate(self, part: str, tasks: int, steps: int, what: str) -> Evaluation:
        with Progress(tasks, f"{what}, {self.title}", self.data.metric) as progress:

            def on_block(done: int) -> None:
                progress.update(done)
                self.stop_if_asked()

            return evaluate(
                self.learner,
                self.data,
                part,  # type: ignore[arg-type]
                tasks,
                steps,
                self.device.task_chunk,
                curve=part == "test",
                on_block=on_block,
            )

    def take_judged_weights(self) -> None:
        """The weights that the test is made with: the best, or where none were kept, the last."""
        if self.iterations:
            self.learner.load_state_dict(_weights(self.folder))
        if self.data.kind == "regression":
            self.learner.residual_variance.fill_(self._validation_error() or torch.nan)

    def _validation_error(self) -> float | None:
        """The mean squared error of the weights that are tested on validation tasks, where it is known."""
        source = self.options.evaluate
        if source:
            known = read_result(Path(source)) if (Path(source) / "result.json").is_file() else {}
            return known.get("validation", {}).get("best")
        return self.best if checkpoint.exists(self.folder / "checkpoint", "best") else self.last_metric

    def _test(self) -> Evaluation:
        self.take_judged_weights()
        return self._evaluate("test", self.options.eval_tasks, self.options.curve_steps, "test")

    def report(self, scores: Evaluation) -> dict[str, Any]:
        """The test's part of `result.json`, and its files: episodes, curves, pictures.

        Raises:
            Diverged: the score of a pair is NaN or infinite.
        """
        pooled, more = self._verify(scores) if self.data.kind == "verification" else ({}, {})
        told = calibration(scores.values)
        if told is not None:
            pooled, more = {**pooled, told.metric: told.error}, {**more, "calibration": told.about}
        write_atomically(
            self.folder / "episodes.npz",
            lambda file: np.savez_compressed(file, headline_step=scores.step, **scores.values),  # type: ignore[arg-type]
        )
        curve = scores.curve()
        self._figures(scores, curve, told)
        headline = scores.estimate()
        return {
            "metric": scores.headline,
            **headline._asdict(),
            "step": scores.step,
            "steps": curve,
            "metrics": {n: scores.estimate(n).as_dict() for n in scores.metrics if n != scores.headline} | pooled,
            "episodes": scores.episodes,
            **more,
        }

    def _verify(self, scores: Evaluation) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is known of all pairs together: metrics, and the field `verification`. Adds each task's accuracy.

        The threshold comes from validation pairs, scored with the weights that are tested.
        """
        from metarun import figures

        val = self._evaluate("val", self.options.val_tasks, 0, "threshold")
        for values in (scores.values, val.values):
            if not np.isfinite(values["scores"]).all():
                raise Diverged(self.training.iteration, "the score of a pair became NaN or infinite")
        verdict = verification.judged(scores.values, val.values)
        scores.values["accuracy"] = verdict.accuracy[:, None]
        about = verdict.about
        flat, same = (scores.values[name].ravel() for name in PAIRS)
        figures.roc(about, scores.estimate().mean, self.folder / "roc.png")
        figures.pair_scores(flat[same == 1], flat[same == 0], about["threshold"], self.folder / "scores.png")
        assert self.tracker is not None
        points = zip(about["roc"]["false_positive_rate"], about["roc"]["true_positive_rate"], strict=True)
        lines: dict[str, list[tuple[float, float | None]]] = {"pairs": list(points), "chance": [(0, 0), (1, 1)]}
        self.tracker.lines("curve/roc", "false positive rate", lines)
        return {"eer": verdict.eer}, {"verification": about}

    def _figures(self, scores: Evaluation, curve: list[dict[str, float]], told: Calibration | None) -> None:
        from metarun import figures
        from metarun.pictures import adapted_curves, instances, reliability

        assert self.tracker is not None
        self.tracker.curve(self.data.metric, curve)
        if len(curve) > 1:
            figures.step_curve(curve, self.data.metric, self.folder / "step_curve.png")
        if self.iterations:
            figures.learning_curve(self.folder / "metrics.jsonl", self.data.metric, self.folder / "learning_curve.png")
        adapted_curves(self.learner, self.data, self.folder / "adapted_curves.png")
        instances(
            scores,
            self.data.outputs("test", self.learner.stream_on(self.data)),
            self.folder / "instances.png",
            self.tracker,
        )
        if told is not None:
            reliability(told, self.folder / "reliability.png", self.tracker)
        for path in sorted(self.folder.glob("*.png")):
            self.tracker.figure(path.stem, path)

    def _published(self) -> dict[str, Any] | None:
        """The published figure for this run's ways and shots, where setting or experiment names one."""
        about = self.data.describe()
        for entry in self.cfg.paper:
            if all(entry.get(key, about[key]) == about[key] for key in ("ways", "shots")):
                return {key: entry[key] for key in ("source", "value", "ci95", "status") if key in entry}
        return None

    def _facts(self) -> dict[str, Any]:
        """What is known of a run however it ended."""
        median = float(np.median(self.step_seconds)) if self.step_seconds else None
        group = {name: self.choices[name] for name in ("algo", "data", "backbone")}
        return {
            "status": None,
            "error": None,
            "iteration": None,
            **group,
            **self.data.describe(),
            "seed": self.seed,
            "metric": self.data.metric,
            "higher_is_better": self.data.higher_is_better,
            "mean": None,
            "ci95": None,
            "median": None,
            "tasks": None,
            "step": self.learner.eval_steps,
            "steps": [],
            "metrics": {},
            "episodes": None,
            "validation": {"best": self.best, "last": self.last_metric},
            "iterations": self.training.iteration,
            "train_seconds": round(self.train_seconds, 3),
            "compile_seconds": round(self.compile_seconds, 3),
            "iterations_per_second": 1 / median if median else None,
            "peak_memory_mb": round(peak_memory_mb(self.device.torch_device), 1),
            "parameters": sum(p.numel() for p in self.learner.parameters()),
            "paper": self._published(),
            "overrides": self.overrides,
            "device": str(self.device.torch_device),
            "threads": torch.get_num_threads(),
            "compiled": self.compiled,
            "vectorized": self.learner.vectorized,
            "replicas": self.replicas,
            "processes": self.world.size,
            "versions": {name: version(name) for name in ("metarun", "torch", "learn2learn", "hydra-core", "numpy")},
            "commit": _commit(),
        }


@contextmanager
def signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are noted in the list, for the next safe point; a second SIGINT stops at once."""
    caught: list[int] = []

    def note(signum: int, _frame: object) -> None:
        if caught and signum == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(signum)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: some launchers' workers; their parent handles signals
        yield caught
        return
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _commit() -> str | None:
    """The commit of the checkout that metarun runs from, with `+` where files differ from it."""
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():
        return None  # installed: the checkout around it, if any, is somebody else's

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
