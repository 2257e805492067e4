"""Small run folders, written without running anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

TASKS = 20
BY_STEP = (4.0, 1.0, 0.9, 0.8)  # the metric after 0..3 steps, times the headline's, which is after one


def write_run(
    folder: Path,
    algo: str = "maml",
    seed: Any = 0,
    inner_lr: float = 0.01,
    mean: float | None = 0.5,
    status: str = "completed",
    config: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, Any]] | None = None,
    **result: Any,
) -> Path:
    """Write a folder as a run leaves it.

    Args:
        mean: the headline metric; None for a run that has none.
        config: replaces or extends groups of the configuration: `{"data": {"shots": 5}}`.
        history: the rows of metrics.jsonl; None for twenty rows that fall towards the mean.
        result: replaces or extends fields of result.json.
    """
    content = result_of(algo, seed, mean, status) | result
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(content))
    write_config(folder, merged(config_of(algo, seed, inner_lr, content["data"]), config or {}))
    rows = history_of(content["metric"], mean, seed) if history is None else history
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if mean is not None:
        write_episodes(folder, content["metric"], mean, seed)
    return folder


def write_config(folder: Path, config: Mapping[str, Any]) -> Path:
    """Write only `.hydra/`, as a run that is not finished leaves it."""
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(dict(config)))
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([f"seed={config.get('seed')}"]))
    return folder


def result_of(algo: str, seed: Any, mean: float | None, status: str) -> dict[str, Any]:
    return {
        "status": status,
        "error": None if status == "completed" else f"it {status}",
        "algo": algo,
        "data": "sinusoid",
        "backbone": "mlp",
        "seed": seed,
        "metric": "mse",
        "mean": mean,
        "ci95": None if mean is None else 0.02,
        "median": mean,
        "tasks": TASKS,
        "step": 1,
        "steps": [] if mean is None else [step_of(step, mean * times) for step, times in enumerate(BY_STEP)],
        "episodes": "0123456789abcdef",
        "iterations": 1000,
        "train_seconds": 12.5,
        "paper": None,
    }


def step_of(step: int, mean: float) -> dict[str, Any]:
    return {"step": step, "mean": mean, "ci95": 0.02, "median": mean}


def config_of(algo: str, seed: Any, inner_lr: float, data: str) -> dict[str, Any]:
    return {
        "seed": seed,
        "run": {"iterations": 1000, "meta_batch_size": 4},
        "data": {"_target_": f"metarun.data.{data}", "shots": 10},
        "algo": {"_target_": f"metarun.algos.{algo}", "inner_lr": inner_lr, "eval_steps": "${algo.inner_steps}"},
    }


def merged(config: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, with groups that another one replaces or extends."""
    groups = {
        key: config[key] | value if isinstance(value, dict) and isinstance(config.get(key), dict) else value
        for key, value in other.items()
    }
    return config | groups


def history_of(metric: str, mean: float | None, seed: Any) -> list[dict[str, Any]]:
    """Random training metrics, and validation at every fifth row."""
    goal = 1.0 if mean is None else mean
    noise = generator(seed).normal(size=20)
    rows: list[dict[str, Any]] = []
    for at, jump in enumerate(noise, 1):
        value = goal * (1 + 3 / at) * (1 + 0.2 * abs(float(jump)))
        rows.append({"iteration": 50 * at, "train/loss": 2 * value, f"train/{metric}": value})
        if at % 5 == 0:
            rows.append({"iteration": 50 * at, f"val/{metric}": goal * (1 + 3 / at)})
    return rows


def generator(seed: Any) -> np.random.Generator:
    return np.random.default_rng(seed if isinstance(seed, int) and seed >= 0 else 0)


def write_episodes(folder: Path, metric: str, mean: float, seed: Any) -> None:
    """Write the metric of each task after each step; after the step of the headline its mean is `mean`."""
    noise = generator(seed).normal(scale=0.05, size=TASKS)
    values = np.outer(mean + noise - noise.mean(), BY_STEP)
    np.savez(folder / "episodes.npz", headline_step=np.int64(1), **{metric: values})
