"""What a run came to: the test's result, computed whole before anything is drawn of it, and `result.json`."""

from __future__ import annotations

import io
import subprocess
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from metarun.evaluation.adapted_curves import adapted_curves
from metarun.evaluation.calibration import Calibration, calibration
from metarun.evaluation.evaluate import Evaluation
from metarun.evaluation.verification import VerificationResult, evaluate_verification
from metarun.experiment.attempts import append_to_log
from metarun.experiment.choices import is_of_published_pair
from metarun.experiment.claim import reason
from metarun.experiment.errors import ConfigError, InterruptedRun
from metarun.experiment.session import Experiment
from metarun.files import write_json
from metarun.plain_text import say
from metarun.report.console import print_line, print_result
from metarun.run_folder import CONFIG, FORMAT
from metarun.tasks import DataError
from metarun.tracking.tracker import TrackerError
from metarun.training.device import peak_memory_mb
from metarun.training.loop import DivergenceError
from metarun.version import __version__

PACKAGES = ("torch", "learn2learn", "hydra-core", "numpy")


class Outcome(NamedTuple):
    """All that the test of a run says.

    Attributes:
        evaluation: the metrics of each held-out task; of verification each task's accuracy too.
        curve: the headline after each number of steps.
        chance: accuracy of guessing; None where there are no classes.
        verification: of all pairs together, where the data are pairs.
        calibration: where predictions say how sure they are.
        adapted_curves: a few functions before and after adaptation; empty where the data are no curves.
    """

    evaluation: Evaluation
    curve: list[dict[str, float]]
    chance: float | None
    verification: VerificationResult | None
    calibration: Calibration | None
    adapted_curves: list[dict[str, Any]]

    @property
    def diverged(self) -> str | None:
        """Why the run counts as diverged; None: every held-out task has a finite headline."""
        headline = self.evaluation.estimate()
        if not headline.not_finite:
            return None
        return (
            f"{headline.not_finite} of {headline.tasks} held-out tasks have predictions that are not finite, "
            f"so there is no mean {self.evaluation.headline}"
        )

    def fields(self) -> dict[str, Any]:
        """The test's part of `result.json`."""
        evaluation = self.evaluation
        headline, metrics = evaluation.headline, [name for name in evaluation.metrics if name != evaluation.headline]
        pooled: dict[str, Any] = {}
        details: dict[str, Any] = {}
        groups = {name: estimate.as_dict() for name, estimate in evaluation.by_group().items()}
        if self.diverged:
            details |= {"status": "diverged", "error": self.diverged}
        if self.verification is not None:
            pooled["eer"], details["verification"] = self.verification.eer, self.verification.details
        if self.calibration is not None:
            pooled[self.calibration.metric] = self.calibration.error
            details["calibration"] = self.calibration.diagram
        return {
            "metric": headline,
            **evaluation.estimate()._asdict(),
            "step": evaluation.step,
            "steps": self.curve,
            "metrics": {name: evaluation.estimate(name).as_dict() for name in metrics} | groups | pooled,
            "episodes": evaluation.episodes,
            **details,
        }

    def episodes(self) -> bytes:
        """The content of `episodes.npz`: metrics of every held-out task, so runs can be compared task by task."""
        values: dict[str, Any] = self.evaluation.values
        buffer = io.BytesIO()
        np.savez_compressed(buffer, headline_step=self.evaluation.step, **values)
        return buffer.getvalue()


def compute_result(run: Experiment, evaluation: Evaluation) -> Outcome:
    """All that follows from the evaluation on the test tasks; may evaluate validation tasks for a threshold.

    Raises:
        DivergenceError: a validation pair, which chooses the threshold, has a score that is not finite.
    """
    verification = None
    if run.data.kind == "verification" and not evaluation.estimate().not_finite:
        validation = run.evaluate("val", run.config.val_tasks, 0, "threshold")
        if not np.isfinite(validation.values["scores"]).all():
            raise DivergenceError(run.state.iteration, "the score of a validation pair became NaN or infinite")
        verification = evaluate_verification(evaluation.values, validation.values)
        evaluation.values["accuracy"] = verification.accuracy[:, None]
    classes = run.data.kind == "classification"
    ways = run.data.outputs("test", run.learner.evaluation_stream_for(run.data)) if classes else None
    return Outcome(
        evaluation,
        evaluation.curve(),
        1 / ways if ways else None,
        verification,
        run.attempt("calibration", lambda: calibration(evaluation.values)),
        run.attempt("the adapted curves", lambda: adapted_curves(run.learner, run.data)) or [],
    )


def failure(run: Experiment, error: BaseException) -> tuple[dict[str, Any], int]:
    """What `result.json` says of an error that ended the run, and the exit status.

    Raises:
        ConfigError: data or tracker would not start.
    """
    if isinstance(error, DivergenceError):
        return {"status": "diverged", "error": str(error), "iteration": error.iteration}, 3
    iteration = {"iteration": run.state.iteration}
    if isinstance(error, InterruptedRun | KeyboardInterrupt):
        status = getattr(error, "exit_status", 130)
        return {"status": "interrupted", "error": str(error) or "stopped", **iteration}, status
    if isinstance(error, DataError | TrackerError | ConfigError):
        if run.metrics is not None:
            run.metrics.close()
        run.tracker.finish(2)
        raise ConfigError(str(error)) from error
    text = "".join(traceback.format_exception(error))
    append_to_log(run.folder, text)
    return {"status": "failed", "error": f"{type(error).__name__}: {error}", "traceback": text, **iteration}, 1


def close(
    run: Experiment,
    fields: dict[str, Any],
    exit_status: int,
    after: Sequence[Callable[[], object]] = (),
) -> dict[str, Any]:
    """Write `result.json`, then do the rest, finish the trackers, print the result.

    Args:
        run: the run.
        fields: what it came to.
        exit_status: see design of the command line, metarun/cli/main.py.
        after: what else comes of it, each an attempt; what fails is listed in the result as `incomplete`.

    Returns:
        The content of `result.json`, with `exit_status` beside it.
    """
    attempt = run.attempt
    result = {**metadata(run), "status": "completed", **fields}
    result["paper"] = attempt("the published figure", lambda: published(run))
    result["trackers"] = attempt("what the trackers say of themselves", run.tracker.describe) or {}
    result["incomplete"] = incomplete(run)
    own = {file: digest for file, digest in run.config_digests.items() if file == str(CONFIG)}
    result["sha256"] = {**own, **result["sha256"]}
    if run.metrics is not None:
        attempt("metrics.jsonl", run.metrics.close)
    exit_status = write_result(run.folder, result, exit_status)
    for action in after:
        action()
    attempt("tracking", lambda: finish_tracker(run, result, exit_status))
    if (found := incomplete(run)) != result["incomplete"]:
        result["incomplete"] = found
        exit_status = write_result(run.folder, result, exit_status)
    # a multirun ends in a table of all
    show = print_result if run.spec.sweep is None else print_line
    attempt("printing", lambda: show(result, run.folder))
    return {**result, "exit_status": exit_status}


def write_result(folder: Path, result: dict[str, Any], exit_status: int) -> int:
    """Write `result.json`.

    Returns:
        The exit status: 1 for 0 where it cannot be written.
    """
    try:
        write_json(folder / "result.json", result)
    except OSError as error:  # a full disk: the checkpoint is whole, and the run can be resumed
        say(f"cannot write {folder / 'result.json'}: {reason(error)}")
        return exit_status or 1
    return exit_status


def incomplete(run: Experiment) -> list[str]:
    """`NAME: why` of everything beside the numbers that failed."""
    return [*run.attempt.failed, *(f"tracker.{name}: {why}" for name, why in run.tracker.failed.items())]


def finish_tracker(run: Experiment, result: dict[str, Any], exit_status: int) -> None:
    """Give the trackers the result, and close them."""
    try:
        run.tracker.summary(result)
        if exit_status == 0:
            run.tracker.artifact(run.folder / "checkpoint")
    finally:
        run.tracker.finish(exit_status)


def metadata(run: Experiment) -> dict[str, Any]:
    """What is known of a run however it ended, and null for what is not."""
    median = float(np.median(run.step_seconds)) if run.step_seconds else None
    return {
        "format": FORMAT,
        "status": None,
        "error": None,
        "iteration": None,
        **{name: run.spec.choices[name] for name in ("algo", "data", "backbone")},
        **run.data.describe(),
        "seed": run.seed,
        "metric": run.data.metric,
        "higher_is_better": run.data.higher_is_better,
        "mean": None,
        "ci95": None,
        "median": None,
        "tasks": None,
        "not_finite": None,
        "step": run.learner.eval_steps,
        "steps": [],
        "metrics": {},
        "episodes": None,
        "validation": {"best": run.best, "last": run.validation},
        "iterations": run.state.iteration,
        "train_seconds": round(run.train_seconds, 3),
        "compile_seconds": round(run.compile_seconds, 3),
        "test_seconds": None if run.test_seconds is None else round(run.test_seconds, 3),
        "iterations_per_second": 1 / median if median else None,
        "peak_memory_mb": round(peak_memory_mb(run.device.torch_device), 1),
        "parameters": sum(p.numel() for p in run.learner.parameters()),
        "paper": None,
        "overrides": run.spec.overrides,
        "device": str(run.device.torch_device),
        "threads": torch.get_num_threads(),
        "compiled": run.compiled,
        "vectorized": run.learner.vectorized,
        "replicas": run.replicas,
        "processes": run.processes.size,
        "trackers": {},
        "versions": versions(),
        "commit": commit(),
        "incomplete": [],
        "sha256": {},
    }


def published(run: Experiment) -> dict[str, Any] | None:
    """The published figure for this run's ways and shots, where the setting or experiment of its data names one."""
    if not is_of_published_pair(run.spec.choices):
        return None
    task = run.data.describe()
    for entry in run.spec.cfg.paper or ():
        if all(entry.get(key, task[key]) == task[key] for key in ("ways", "shots")):
            return {key: entry[key] for key in ("source", "table", "value", "ci95", "read") if key in entry}
    return None


def versions() -> dict[str, str]:
    """Versions of metarun, and of those packages that are installed."""
    found = {"metarun": __version__}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def commit() -> str | None:
    """The commit of the checkout that metarun runs from, with `+` where files differ from it; None: no checkout."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None  # installed: the checkout around it, if any, is somebody else's

    def git(*words: str) -> str:
        command = ["git", "-C", str(checkout), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
