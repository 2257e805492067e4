"""`hydra/sweeper=grid`, the default: a multirun's cells, named, checked, and only those that are missing."""

from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """Every combination of the values that are swept.

    Args:
        max_batch_size: at most so many cells go to the launcher at once; None: all.
        params: further sweeps, `{key: values}`.
    """

    def __init__(self, max_batch_size: int | None, params: dict[str, str]) -> None:
        self.max_batch_size, self.params = max_batch_size, params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.context, self.multirun = hydra_context, config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from metarun.sweeps.grid import sweep

        params = [f"{key}={value}" for key, value in (self.params or {}).items()]
        return sweep(self.context, self.multirun, self.launcher, [*params, *arguments], self.max_batch_size)
