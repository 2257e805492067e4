"""An algorithm on the first small data set that it takes: its components, in float64."""

from __future__ import annotations

from functools import cache

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from metarun.experiment.build import Components, build
from metarun.experiment.choices import CONF
from metarun.experiment.errors import ConfigError

SMALL = {
    "sinusoid": ["data.train_queries=5", "data.queries=5"],
    "synthetic": ["data.ways=3", "data.shots=2", "data.queries=2", "backbone=mlp", "backbone.hidden=[16]"],
}


@cache
def configured(algo: str) -> tuple[DictConfig, dict[str, str]]:
    """The configuration of an algorithm on the first small data set that it takes; composing takes most time."""
    for data, overrides in SMALL.items():
        with initialize_config_dir(str(CONF), version_base="1.3"):
            common = ["device=cpu", "device.precision=float64", "tracker=none"]
            cfg = compose("config", [f"algo={algo}", f"data={data}", *overrides, *common], return_hydra_config=False)
        choices = {"algo": algo, "data": data, "backbone": "mlp"}
        try:
            build(cfg, choices)
        except ConfigError:
            continue
        return cfg, choices
    raise AssertionError(f"algo={algo} runs on none of {', '.join(SMALL)}: add a small data set that it takes")


@cache
def components_of(algo: str, seed: int = 0) -> Components:
    cfg, choices = configured(algo)
    return build(OmegaConf.merge(cfg, {"seed": seed}), choices)  # type: ignore[arg-type]
