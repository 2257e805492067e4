"""From a configuration to the objects it stands for; touches no data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarun.checks import require
from metarun.experiment.choices import describe, names, require_offered_role
from metarun.experiment.errors import ConfigError
from metarun.experiment.interpolations import refuse_calls
from metarun.experiment.overrides import UsageError
from metarun.experiment.schema import RunConfig, checked
from metarun.experiment.targets import class_at, make
from metarun.layers.drop_block import drop_blocks
from metarun.layers.norm import MODES, STATELESS, batch_norms
from metarun.learner.learner import Learner
from metarun.run_folder import CONFIG, GROUPS, DamagedFileError, read_choices, read_config
from metarun.tasks import TaskSet
from metarun.tracking.trackers import Trackers
from metarun.training import checkpoint
from metarun.training.device import Device
from metarun.training.meta_optimizer import MetaOptimizer


@dataclass
class Components:
    """What a configuration stands for."""

    config: RunConfig
    device: Device
    data: TaskSet
    learner: Learner
    meta_optimizer: MetaOptimizer
    tracker: Trackers
    seed: int


def build(cfg: DictConfig, choices: dict[str, str]) -> Components:
    """The objects of a configuration; touches no data.

    Args:
        cfg: the composed configuration.
        choices: the chosen name of each group (`algo`, `data`, `backbone`, ...), for messages.

    Raises:
        ConfigError: a value or a combination makes no sense; the message names the key.
    """
    try:
        _refuse_mismatch(cfg, choices)
        cfg = checked(cfg)
        config = RunConfig(**cfg.run)
        device = Device(**cfg.device)
        data = make("data", cfg.data, device=device.torch_device)
        data.eval_seed = config.eval_seed
        require_offered_role(choices)
        class_at("backbone", cfg.backbone.get("_target_"))
        torch.manual_seed(cfg.seed)
        learner = _build_learner(cfg, data, choices).to(device.torch_device, device.dtype)
        scheduler = make("scheduler", cfg.scheduler) if cfg.scheduler else None
        meta_optimizer = make("optimizer", cfg.optimizer, scheduler=scheduler)
        trackers = {name: make(f"tracker.{name}", node) for name, node in cfg.tracker.items()}
    except (ValueError, TypeError, OmegaConfBaseException) as error:
        raise ConfigError(str(error)) from error
    return Components(config, device, data, learner, meta_optimizer, Trackers(trackers), cfg.seed)


def _build_learner(cfg: DictConfig, data: TaskSet, choices: dict[str, str]) -> Learner:
    """The learner, on the CPU.

    Raises:
        ValueError: its weights do not fit the training tasks, or it has no use for what the backbone brings.
    """
    learner_class = _class(cfg.algo)
    stream = learner_class.evaluation_stream_for(data)
    outputs = data.outputs("test", stream)
    offered: dict[str, Any] = {
        "backbone": partial(make, "backbone", cfg.backbone, data.in_shape(stream)),
        "outputs": outputs,
        "ways": outputs,
        "loss": data.loss,
    }
    parameters = signature(learner_class).parameters
    kwargs = {name: value for name, value in offered.items() if name in parameters}
    learner: Learner = make("algo", cfg.algo, **kwargs)
    if "outputs" in parameters and learner.stages:
        train_outputs = data.outputs("train", learner.stages[-1].stream)
        wanted = f"data.ways={outputs} for algo={choices['algo']}, whose last layer has one unit for each way"
        require("data.train_ways", train_outputs, train_outputs == outputs, wanted)
    _refuse_norms(learner, choices["algo"])
    if drop_blocks(learner) and not learner.supports_dropblock:
        raise ValueError(
            f"backbone.drop_rate must be 0 for algo={choices['algo']}, which draws no masks to drop by; "
            f"got {cfg.backbone.drop_rate}"
        )
    return learner


def _refuse_norms(learner: Learner, algo: str) -> None:
    """Refuse batch norms of a mode with which this learner's predictions would be wrong, and name those that work."""
    allowed = learner.batch_norm_modes
    *names, last = [*(mode for mode in MODES if mode in allowed), *STATELESS]
    reason = (
        "which adapts layers whose running statistics would be those of other weights"
        if "running" not in allowed
        else "in which no example may see later ones of its sequence"
    )
    for norm in batch_norms(learner):
        what = f"{', '.join(names)} or {last} for algo={algo}, {reason}"
        require("backbone.norm", norm.mode, norm.mode in allowed, what)


def _class(config: Mapping[str, Any]) -> Any:
    return get_class(config["_target_"])


def _refuse_mismatch(cfg: DictConfig, choices: dict[str, str]) -> None:
    """Refuse an algorithm on data whose tasks or streams it cannot use, and name the data that it can.

    This comes before any value is looked at: data of another kind may lack keys that the algorithm reads.
    """
    raw: Any = OmegaConf.to_container(cfg)
    paths = {group: (raw.get(group) or {}).get("_target_") for group in ("algo", "data")}
    if not all(isinstance(path, str) for path in paths.values()):
        return  # the schema says what is missing
    learner, data = (class_at(group, str(path)) for group, path in paths.items())

    def needed(tasks: type[TaskSet]) -> set[str]:
        return {stage.stream for stage in learner.stages} | {learner.evaluation_stream_for(tasks)}

    def fits(tasks: type[TaskSet]) -> bool:
        return tasks.kind in learner.task_types and needed(tasks) <= set(tasks.streams)

    if fits(data):
        return
    fitting = [name for name in names("data") if fits(_class(describe("data", name)))]
    reason = (
        f"{choices['algo']} is for {' and '.join(learner.task_types)}, {choices['data']} is {data.kind}"
        if data.kind not in learner.task_types
        else f"{choices['algo']} needs the streams {', '.join(sorted(needed(data)))}; "
        f"{choices['data']} has {', '.join(data.streams)}"
    )
    raise ValueError(
        f"algo={choices['algo']} cannot run on data={choices['data']}: {reason}. It runs on {', '.join(fitting)}."
    )


def saved_config(folder: Path) -> tuple[DictConfig, dict[str, str]]:
    """The configuration a run was started with, and its chosen groups.

    Raises:
        ConfigError: there is no run in that folder, or its configuration is damaged.
    """
    try:
        config, choices = read_config(folder), read_choices(folder)
        refuse_calls(config, folder / CONFIG)
        missing = [key for key in ("seed", *GROUPS) if key not in config]
        if missing := missing + [name for name in ("backbone",) if name not in choices]:
            raise DamagedFileError(f"the configuration of the run in {folder} is damaged (it has no {missing[0]})")
    except (FileNotFoundError, DamagedFileError, UsageError) as error:
        raise ConfigError(str(error)) from error
    return OmegaConf.create(config), choices


def load_components(folder: Path) -> tuple[Components, dict[str, str]]:
    """The components of a run's folder and its chosen groups; the learner has its tested weights, in evaluation mode.

    Raises:
        ConfigError: no run there.
        FileNotFoundError: the run has no checkpoint.
        CheckpointError: it is damaged, or was changed.
    """
    loaded, choices = saved_components(folder)
    tested = tested_checkpoint(folder)
    checkpoint.require_weights(folder / "checkpoint", tested.weights, loaded.learner.state_dict(), precision=True)
    loaded.learner.load_state_dict(tested.weights)
    loaded.learner.eval()
    if loaded.data.kind == "regression":
        variance = tested.details.get("residual_variance")
        loaded.learner.residual_variance.fill_(torch.nan if variance is None else variance)
    return loaded, choices


def saved_components(folder: Path) -> tuple[Components, dict[str, str]]:
    """The components of a run's configuration on this machine's device, and its chosen groups; initial weights.

    Raises:
        ConfigError: no run there.
    """
    cfg, choices = saved_config(folder)
    if isinstance(cfg.get("device"), DictConfig):
        cfg.device.name = "auto"
    with torch.random.fork_rng(devices=[]):  # drawing initial weights must not reseed the caller
        return build(cfg, choices), choices


def tested_checkpoint(folder: Path) -> checkpoint.Checkpoint:
    """The checkpoint that a finished run is tested with: its best, or where it kept none, its last.

    Raises:
        FileNotFoundError: the run has no checkpoint.
        CheckpointError: it is damaged, or was changed.
    """
    name = tested_name(folder)
    saved = checkpoint.load(folder / "checkpoint", name)
    error = saved.details.get("best" if name == "best" else "last_metric")
    return saved._replace(details={"residual_variance": error, **saved.details})  # which earlier versions did not keep


def tested_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights a finished run is tested with.

    Raises:
        FileNotFoundError: the run has no checkpoint.
        CheckpointError: it is damaged, or was changed.
    """
    return checkpoint.load_weights(folder / "checkpoint", tested_name(folder))


def tested_name(folder: Path) -> str:
    """Name of the checkpoint whose weights a finished run is tested with: its best, or where it kept none, its last."""
    return "best" if checkpoint.exists(folder / "checkpoint", "best") else "last"
