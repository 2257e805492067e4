"""`hydra/sweeper=optuna`: a search instead of a grid; the work is metarun/sweeps/optuna_search.py's."""

from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Searches where the command says to: `algo.inner_lr='tag(log,interval(1e-4,1))'`, `optimizer.lr=1e-2,1e-3`.

    Args:
        n_trials: how many in all, those of an interrupted search included.
        n_jobs: trials that the launcher gets at once.
        sampler: tpe, random, cmaes, gp or qmc.
        seed: of the sampler.
        storage: an Optuna URL; None: `optuna.db` in the multirun's folder.
        study_name: in that storage.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.context, self.multirun = hydra_context, config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from metarun.sweeps.optuna_search import OptunaConfig, search

        return search(self.context, self.multirun, self.launcher, arguments, OptunaConfig(**self.options))
