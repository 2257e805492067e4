"""The choices that metarun adds to Hydra's own groups: `hydra/sweeper` and `hydra/launcher`.

They are registered only where metarun's configuration is composed (hydra_plugins/metarun_search_path.py): another Hydra
program of the same environment has its own `hydra/sweeper=optuna`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore


@dataclass
class GridConf:
    """Keys of `hydra.sweeper` for the default, `grid`."""

    _target_: str = "hydra_plugins.metarun_grid.GridSweeper"
    max_batch_size: int | None = None  # cells that a launcher gets at once; None: all
    params: dict[str, str] = field(default_factory=dict)  # further sweeps, as on the command line


@dataclass
class OptunaConf:
    """Keys of `hydra.sweeper` for `optuna`."""

    _target_: str = "hydra_plugins.metarun_optuna.OptunaSweeper"
    n_trials: int = 20
    n_jobs: int = 1  # trials that the launcher gets at once
    sampler: str = "tpe"  # tpe | random | cmaes | gp | qmc
    seed: int = 0  # of the sampler
    storage: str | None = None  # an Optuna URL; None: optuna.db in the multirun's folder
    study_name: str = "metarun"


@dataclass
class FusedConf:
    """Keys of `hydra.launcher` for `fused`."""

    _target_: str = "hydra_plugins.metarun_fused.FusedLauncher"
    max_replicas: int = 64  # at most so many runs in one program, to bound memory
    # At most so many of these in one forward and backward pass, to bound memory; null: all; auto, a rule:
    # convolutional networks on a CPU one at a time, all others all at once (on two threads null saves MAML 10 %).
    replica_micro_batch: Any = "auto"


def register() -> None:
    """Store them; another package's choice of the same name gives way in this process."""
    store = ConfigStore.instance().store
    store(group="hydra/sweeper", name="grid", node=GridConf, provider="metarun")
    store(group="hydra/sweeper", name="optuna", node=OptunaConf, provider="metarun")
    store(group="hydra/launcher", name="fused", node=FusedConf, provider="metarun")
