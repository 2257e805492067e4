"""One experiment from start to end: train, test, and leave a folder that says everything about it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from metarun.evaluation.evaluate import Evaluation
from metarun.experiment.build import build
from metarun.experiment.cell import RunSpec
from metarun.experiment.errors import ConfigError, InterruptedRun
from metarun.experiment.figures import draw_result, track_result
from metarun.experiment.result import Outcome, close, compute_result, failure
from metarun.experiment.session import Experiment
from metarun.experiment.signals import signals
from metarun.experiment.trainer import Trainer
from metarun.files import write_atomically
from metarun.plain_text import say
from metarun.run_folder import status_of
from metarun.training.distributed import MissingProcessError, process_group
from metarun.training.loop import DivergenceError
from metarun.training.ranks import ranks

EPISODES = "episodes.npz"


def run(spec: RunSpec) -> dict[str, Any]:
    """Train, test, and leave a folder that says everything about it.

    Returns:
        The content of `result.json`, with `exit_status` beside it (0, 1, 3, 129, 130 or 143; see metarun/cli/main.py).

    Raises:
        ConfigError: before anything started.
    """
    with open_experiment(spec) as experiment:
        if result := experiment.prepare_folder():
            return result
        try:
            experiment.open()
            with experiment.checkpoint_on_error():
                Trainer(experiment).train()
            outcome = compute_result(experiment, test(experiment))
        except (Exception, KeyboardInterrupt) as error:
            return close(experiment, *failure(experiment, error))
        return finish(experiment, outcome)


def test(experiment: Experiment) -> Evaluation:
    """Evaluate a trained run on the test tasks."""
    began = time.perf_counter()
    experiment.load_test_weights()
    config = experiment.config
    evaluation = experiment.evaluate("test", config.eval_tasks, config.curve_steps, "test")
    experiment.test_seconds = time.perf_counter() - began
    return evaluation


def finish(experiment: Experiment, outcome: Outcome) -> dict[str, Any]:
    """Write the result of the test; only then write its episodes, draw it and track it, each of which may fail.

    Returns:
        The content of `result.json`, with `exit_status` beside it: 3 where a held-out task has a prediction that is not
        finite, else 0.
    """
    folder, attempt, episodes = experiment.folder, experiment.attempt, outcome.episodes()
    digests = {EPISODES: hashlib.sha256(episodes).hexdigest(), **experiment.tested_weights_digest()}
    after = (
        lambda: attempt(EPISODES, lambda: write_atomically(folder / EPISODES, lambda file: file.write(episodes))),
        lambda: attempt("pictures", lambda: draw_result(outcome, folder, experiment.iterations > 0, attempt)),
        lambda: attempt("tracking", lambda: track_result(outcome, folder, experiment.tracker)),
    )
    return close(experiment, {**outcome.fields(), "sha256": digests}, 3 if outcome.diverged else 0, after)


def run_worker(spec: RunSpec) -> dict[str, Any]:
    """Take part in the outer steps of a run that another process writes, tests and ends (training/distributed.py).

    Args:
        spec: of that run; `folder` is where to resume from, if it is resumed.

    Returns:
        `exit_status` and `mean`, as `run`: 0 however the run ends, but 1 where the other process is gone.

    Raises:
        ConfigError: before anything started.
    """
    with open_experiment(spec) as experiment:
        if experiment.config.resume and status_of(experiment.folder) == "completed":
            return {"exit_status": 0, "mean": None}  # process 0 says so
        try:
            Trainer(experiment).work()
        except (DivergenceError, InterruptedRun):
            pass  # process 0 says so
        except RuntimeError as error:
            say(f"process {experiment.processes.rank} stops: {error}")
            return {"exit_status": 1, "mean": None}
    return {"exit_status": 0, "mean": None}


@contextmanager
def open_experiment(spec: RunSpec) -> Iterator[Experiment]:
    """An experiment whose processes know each other, and that receives signals.

    Raises:
        ConfigError: the configuration makes no sense.
    """
    components = build(spec.cfg, spec.choices)
    with ExitStack() as stack:
        try:
            processes = stack.enter_context(process_group(components.device.torch_device))
        except MissingProcessError as error:
            if error.first_missing and ranks().rank:  # which would say so
                say(error)
            raise ConfigError(str(error)) from error
        received_signals = stack.enter_context(signals())
        experiment = Experiment(components, spec, processes, received_signals)
        if components.config.meta_batch_size < processes.size:
            raise ConfigError(
                f"run.meta_batch_size must be at least {processes.size}, a task for each process; "
                f"got {components.config.meta_batch_size}"
            )
        yield experiment
