"""`hydra/sweeper=grid`, the default: a multirun's cells, named, checked, and only those that are missing.

No `from __future__ import annotations` here: Hydra loads the module under no name, where dataclasses cannot find it.
"""

from dataclasses import dataclass, field
from typing import Any, Optional

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class GridConf:
    """Keys of `hydra.sweeper`."""

    _target_: str = "hydra_plugins.metarun_grid.GridSweeper"
    max_batch_size: Optional[int] = None  # noqa: UP045 -- cells that a launcher gets at once; None: all
    params: dict[str, str] = field(default_factory=dict)  # further sweeps, as on the command line


class GridSweeper(Sweeper):
    """Every combination of the values that are swept.

    Args:
        max_batch_size: at most so many cells go to the launcher at once; None: all.
        params: further sweeps, `{key: values}`.
    """

    def __init__(self, max_batch_size: Optional[int], params: dict[str, str]) -> None:  # noqa: UP045
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


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridConf, provider="metarun")
