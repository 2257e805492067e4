"""The components of any algorithm on the first small data set that it can use, in float64."""

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


@cache  # composing takes most of the time
def configured(algo: str, overrides: tuple[str, ...] = ()) -> tuple[DictConfig, dict[str, str]]:
    """The configuration of an algorithm on the first small data set that it can use, and the chosen groups.

    Args:
        algo: a name in conf/algo.
        overrides: further ones, e.g. `algo.head=cosine`.
    """
    for data, sizes in SMALL.items():
        common = ["device=cpu", "device.precision=float64", "tracker=none"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", [f"algo={algo}", f"data={data}", *sizes, *common, *overrides])
        choices = {"algo": algo, "data": data, "backbone": "mlp"}
        try:
            build(cfg, choices)
        except ConfigError:
            continue
        return cfg, choices
    raise AssertionError(f"algo={algo} runs on none of {', '.join(SMALL)}: add a small data set that it can use")


@cache
def components_of(algo: str, seed: int = 0, overrides: tuple[str, ...] = ()) -> Components:
    """The components of `configured`. Tests that change them call `components_of.cache_clear()` first."""
    cfg, choices = configured(algo, overrides)
    return build(OmegaConf.merge(cfg, {"seed": seed}), choices)  # type: ignore[arg-type]


def on_synthetic(algo: str, *overrides: str) -> Components:
    """The components of an algorithm on small synthetic images, whatever else it can use."""
    words = ["data=synthetic", "data.shots=2", "data.queries=2", "backbone=mlp", "backbone.hidden=[16]"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [f"algo={algo}", *words, "device=cpu", "device.precision=float64", *overrides])
    return build(cfg, {"algo": algo, "data": "synthetic", "backbone": "mlp"})
