"""`hydra/launcher=fused`: Hydra takes launchers only from a package of this name; see metarun/fused/launcher.py."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class FusedLauncher(Launcher):
    """Trains the runs of a multirun that differ only in seed or in 0-dim hyperparameters as one program.

    Args:
        max_replicas: most runs in one program.
        replica_micro_batch: most replicas in one forward and backward pass; None: all, `auto`: a rule.

    Raises:
        HydraException: one of them is no such number.
    """

    def __init__(self, max_replicas: int, replica_micro_batch: int | str | None) -> None:
        self.max_replicas, self.replica_micro_batch = max_replicas, replica_micro_batch

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        if self.max_replicas < 1:
            raise HydraException(f"hydra.launcher.max_replicas must be at least 1; got {self.max_replicas}")
        size = self.replica_micro_batch
        if size not in (None, "auto") and not (type(size) is int and size >= 1):
            raise HydraException(
                f"hydra.launcher.replica_micro_batch must be an integer of at least 1, auto, or null; got {size!r}"
            )
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        # Here, for it imports torch, and every start of metarun imports this module.
        from metarun.fused.launcher import Sizes, launch

        context: Any = self.hydra_context
        sizes = Sizes(self.max_replicas, self.replica_micro_batch)
        return launch(context, self.config, sizes, job_overrides, initial_job_idx)
