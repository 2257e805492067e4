"""`hydra/launcher=fused`: Hydra takes launchers only from a package of this name; the work is metarun/fused.py's.

No `from __future__ import annotations` here: Hydra loads the module under no name, where dataclasses cannot find it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class FusedConf:
    """Keys of `hydra.launcher`."""

    _target_: str = "hydra_plugins.metarun_fused.FusedLauncher"
    max_replicas: int = 64  # at most so many runs in one program, to bound memory


class FusedLauncher(Launcher):
    """Trains the cells of a multirun that differ only in seed or in 0-dim numbers as one program.

    Args:
        max_replicas: at most so many in one.
    """

    def __init__(self, max_replicas: int) -> None:
        self.max_replicas = max_replicas

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from metarun.fused import launch  # imports torch, and every start of metarun imports this module

        context: Any = self.hydra_context
        return launch(context, self.config, self.max_replicas, job_overrides, initial_job_idx)


ConfigStore.instance().store(group="hydra/launcher", name="fused", node=FusedConf, provider="metarun")
