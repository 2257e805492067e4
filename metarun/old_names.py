"""Names that changed: configuration keys, choices and class paths of earlier versions.

On a command line an old name is an error that says the new one; in a saved run it is translated. docs/old_names.md
lists them for people.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

KEYS = {
    "run.meta_batch": "run.meta_batch_size",
    "run.keep": "run.test_weights",
    "device.task_chunk": "device.task_micro_batch",
    "hydra.launcher.replica_chunk": "hydra.launcher.replica_micro_batch",
    "optimizer.clip": "optimizer.max_grad_norm",
    "optimizer.clip_value": "optimizer.max_grad_value",
    "data.split": "data.partition",
    "data.merged": "data.classes_per_way",
    "data.flat_batch": "data.batch_size",
    "data.pair_batch": "data.pair_batch_size",
    "algo.concepts": "algo.base_classes",
    **{f"tracker.{key}": f"tracker.wandb.{key}" for key in ("mode", "project", "entity", "tags", "group", "log_model")},
}
SCHEDULES = {"constant": "constant", "cosine": "cosine", "linear": "linear", "halve": "step"}
# With their values: `optimizer.schedule=halve optimizer.halve_every=N` is `scheduler=step scheduler.step_size=N`.
SCHEDULER_KEYS = {"optimizer.schedule": "scheduler", "optimizer.halve_every": "scheduler.step_size"}
CHOICES = {("algo", "hand_optimizer"): "tuned_optimizer", ("scheduler", "halve"): "step"}
RESULT_FIELDS = {"split": "partition", "merged": "classes_per_way"}

MODULES = {
    **{f"metarun.algos.{name}": f"metarun.algos.baselines.{name}" for name in ("joint", "oracle", "scratch")},
    "metarun.algos.nearest_centroid": "metarun.algos.baselines.nearest_centroid",
    "metarun.algos.hand_optimizer": "metarun.algos.baselines.tuned_optimizer",
    "metarun.algos.learn2learn": "metarun.algos.learn2learn.gradient_based",
    "metarun.algos.learn2learn_protonet": "metarun.algos.learn2learn.protonet",
    "metarun.algos.learn2learn_updates": "metarun.algos.learn2learn.updates",
    "metarun.loop": "metarun.training.meta_optimizer",
    "metarun.tasks": "metarun.data",  # and what was below it
}
CLASSES = {"OuterOptimizer": "MetaOptimizer", "HandOptimizer": "TunedOptimizer"}

TORCH_SCHEDULERS: dict[str, dict[str, Any]] = {
    "constant": {},
    "cosine": {
        "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
        "_partial_": True,
        "T_max": "${run.iterations}",
        "eta_min": 0.0,
    },
    "linear": {
        "_target_": "torch.optim.lr_scheduler.LinearLR",
        "_partial_": True,
        "start_factor": 1.0,
        "end_factor": 0.0,
        "total_iters": "${run.iterations}",
    },
    "step": {"_target_": "torch.optim.lr_scheduler.StepLR", "_partial_": True, "step_size": None, "gamma": 0.5},
}


def new_class_path(path: str) -> str:
    """Where the class of that dotted path is now; the path itself where it has not moved."""
    module, _, name = path.rpartition(".")
    for old in sorted(MODULES, key=len, reverse=True):
        below = old == "metarun.tasks" and module.startswith(f"{old}.")
        if below or (module == old and old != "metarun.tasks"):
            return f"{MODULES[old]}{module[len(old) :]}.{CLASSES.get(name, name)}"
    return path


def renamed_key(key: str) -> str | None:
    """What a mistyped key is called now; None where it never was one."""
    return KEYS.get(key) or SCHEDULER_KEYS.get(key)


def new_override(override: str) -> str | None:
    """A saved override by its new name; None where it is no longer needed."""
    key, equals, value = override.partition("=")
    prefix = re.match(r"[+~]*", key).group()  # type: ignore[union-attr]
    bare = key.removeprefix(prefix)
    if bare == "optimizer.schedule":
        return f"scheduler={','.join(SCHEDULES.get(name, name) for name in value.split(','))}"
    if bare == "optimizer.halve_every":
        return None if value == "null" else f"scheduler.step_size={value}"
    if (bare, value) in CHOICES:
        return f"{prefix}{bare}={CHOICES[bare, value]}"
    return f"{prefix}{KEYS.get(bare, bare)}{equals}{value}"


def new_overrides(overrides: list[str]) -> list[str]:
    """Saved overrides by their new names."""
    return [new for old in overrides if (new := new_override(old)) is not None]


def new_choices(choices: Mapping[str, str], config: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The saved choice of each group, by its new name.

    Args:
        choices: as they were saved.
        config: the saved configuration, unless its names are today's: what was `optimizer.schedule` is a choice now.
    """
    optimizer = (config or {}).get("optimizer")
    if "scheduler" not in choices and isinstance(optimizer, Mapping) and "schedule" in optimizer:
        choices = {**choices, "scheduler": SCHEDULES[optimizer["schedule"]]}
    return {group: CHOICES.get((group, name), name) for group, name in choices.items()}


def new_config(config: dict[str, Any]) -> dict[str, Any]:
    """A saved configuration (interpolations unresolved) by its new names; a new one comes back as it is."""
    config = _with_new_paths(config)
    optimizer = config.get("optimizer")
    if isinstance(optimizer, dict) and "schedule" in optimizer:
        scheduler = dict(TORCH_SCHEDULERS[SCHEDULES[optimizer.pop("schedule")]])
        every = optimizer.pop("halve_every", None)
        config["scheduler"] = scheduler | ({"step_size": every} if "step_size" in scheduler else {})
    tracker = config.get("tracker")
    if isinstance(tracker, dict) and "_target_" in tracker:
        config["tracker"] = {"wandb": tracker} if "mode" in tracker else {}
    for old, new in KEYS.items():
        group, _, key = old.partition(".")
        node = config.get(group)
        if group not in ("tracker", "hydra") and isinstance(node, dict) and key in node:
            config[group] = {new.partition(".")[2] if k == key else k: value for k, value in node.items()}
    if isinstance(config.get("paper"), list):
        config["paper"] = [new_figure(entry) for entry in config["paper"]]
    return config


def new_figure(figure: Any) -> Any:
    """A published figure, which had a `status` for the text that it was read in and did not name its table."""
    if not isinstance(figure, Mapping) or "source" not in figure or {"table", "read"} <= set(figure):
        return figure
    kept = {key: value for key, value in figure.items() if key != "status"}
    return {"table": "", "read": figure.get("status") or "a text that is not named", **kept}


def new_result(result: dict[str, Any]) -> dict[str, Any]:
    """`result.json` of an earlier version by its new names."""
    if not isinstance(result, dict) or not result:
        return result
    if isinstance(result.get("paper"), Mapping) and "status" in result["paper"]:
        result = {**result, "paper": new_figure(result["paper"])}
    if "format" in result:
        return result
    result = {RESULT_FIELDS.get(key, key): value for key, value in result.items()}
    named = {key: str(result[key]) for key in ("algo", "data", "backbone") if result.get(key)}
    return result | new_choices(named) | {"overrides": new_overrides(result.get("overrides") or [])}


def _with_new_paths(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: new_class_path(value) if key == "_target_" and isinstance(value, str) else _with_new_paths(value)
            for key, value in node.items()
        }
    if isinstance(node, str):
        return re.sub(r"\$\{([\w.]+)\}", lambda m: f"${{{KEYS.get(m.group(1), m.group(1))}}}", node)
    return [_with_new_paths(entry) for entry in node] if isinstance(node, list) else node
