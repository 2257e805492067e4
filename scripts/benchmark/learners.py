"""The second table: every learner's outer step as `metarun` makes it, eager, with its data."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir

from metarun.experiment.build import build
from metarun.experiment.choices import CONF, names
from metarun.experiment.errors import ConfigError
from metarun.training.loop import TrainState, fit
from scripts.benchmark.sides import SETTINGS
from scripts.benchmark.worker import Worker, peak_mb


def outer_steps(algo: str, setting: str, seconds: float, root: str | None) -> Iterator[dict[str, Any]]:
    """Times of an algorithm's outer steps as `metarun` makes them, once; or why there are none."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        data_root = [f"data.root={root}"] if root and setting != "sinusoid" else []
        overrides = [f"algo={algo}", *SETTINGS[setting], "device=cpu", "tracker=none", *data_root]
        try:
            cfg = compose("config", overrides)
            components = build(cfg, {"algo": algo, "data": setting, "backbone": setting})
            if not components.learner.stages:
                raise ConfigError("not trained")
            components.data.prepare()
        except (ConfigError, FileNotFoundError) as error:
            yield {"refused": str(error)}
            return
    learner, data, meta_optimizer = components.learner, components.data, components.meta_optimizer
    state = TrainState.create(learner, meta_optimizer, torch.device("cpu"), 0)
    sampling: list[float] = []
    times: list[float] = []
    before = peak_mb()
    with patch.object(data, "sample", recording(data.sample, sampling)):
        for step in fit(state, data, meta_optimizer, 10**6, cfg.run.meta_batch_size):
            times.append(step.seconds)
            enough = len(times) >= 4 and sum(times[1:]) > seconds
            if enough or sum(times) > 6 * seconds:
                break
    steady = times[1:] or times
    yield {
        "step_ms": 1000 * statistics.median(steady),
        "sample_ms": 1000 * statistics.median(sampling[1:] or sampling),
        "first_ms": 1000 * times[0],
        "repetitions": len(steady),
        "growth_mb": peak_mb() - before,
        "inner_steps": learner.inner_steps,
    }


def recording(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """The function, which appends the duration of each call to `seconds`."""

    def call(*arguments: Any) -> Any:
        start = time.perf_counter()
        value = function(*arguments)
        seconds.append(time.perf_counter() - start)
        return value

    return call


def every_learner(threads: int, seconds: float, root: str | None) -> list[dict[str, Any]]:
    """Each algorithm in each setting that it accepts, one process after the other."""
    results = []
    for algo in names("algo"):
        for setting in SETTINGS:
            print(f"{algo}: {setting}", file=sys.stderr)
            worker = Worker(threads, outer_steps, algo, setting, seconds, root)
            try:
                results.append({"algo": algo, "setting": setting, **worker.next()})
            except RuntimeError as error:
                results.append({"algo": algo, "setting": setting, "failed": str(error)})
            finally:
                worker.end()
    return results
