"""Every file in conf/tracker names trackers that can be made."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from metarun.tracking.mlflow import MLflowTracker
from metarun.tracking.tensorboard import TensorBoardTracker
from metarun.tracking.tracker import Tracker
from metarun.tracking.trackio import TrackioTracker
from metarun.tracking.wandb_settings import wandb_mode
from metarun.tracking.weights_and_biases import WandbTracker

CONF = Path(__file__).parents[2] / "conf" / "tracker"
CHOICES = {file.stem: OmegaConf.load(file) for file in sorted(CONF.glob("*.yaml"))}
NODES = {f"{choice}: {name}": node for choice, config in CHOICES.items() for name, node in config.items()}
METHODS = [name for name, method in vars(Tracker).items() if inspect.isfunction(method) and name[0] != "_"]


@pytest.mark.parametrize("node", NODES.values(), ids=NODES)
def test_a_choice_names_every_argument_and_makes_trackers(node):
    parameters = set(inspect.signature(get_class(node._target_).__init__).parameters) - {"self", "args", "kwargs"}
    assert set(node) - {"_target_"} == parameters
    tracker = instantiate(node, _convert_="all")
    assert tracker.run_id is None
    for method in METHODS:
        assert inspect.signature(getattr(type(tracker), method)) == inspect.signature(getattr(Tracker, method))


def test_a_choice_is_one_tracker_of_its_name_or_none():
    services = {"wandb": WandbTracker, "tensorboard": TensorBoardTracker, "mlflow": MLflowTracker}
    services |= {"trackio": TrackioTracker}
    made = {
        choice: {name: type(instantiate(node)) for name, node in config.items()} for choice, config in CHOICES.items()
    }
    assert made == {
        **{name: {name: kind} for name, kind in services.items()},
        **{"jsonl": {}, "none": {}},
    }
    assert wandb_mode(CHOICES["wandb"].wandb.mode, {}) == ("offline", "")


def test_the_interface_has_these_methods():
    wanted = {"start", "log", "curve", "figure", "table", "lines", "summary", "artifact", "finish"}
    assert set(METHODS) == wanted
