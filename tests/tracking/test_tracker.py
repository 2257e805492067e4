"""Every file in conf/tracker makes a tracker."""

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from metarun.tracking.tracker import NullTracker, Tracker
from metarun.tracking.weights_and_biases import WandbTracker

CONF = Path(__file__).parents[2] / "conf" / "tracker"
METHODS = ("start", "log", "curve", "figure", "summary", "artifact", "finish")


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_choice_names_every_argument_and_makes_a_tracker(file):
    config = OmegaConf.load(file)
    wanted = set(inspect.signature(get_class(config._target_).__init__).parameters) - {
        "self",
        "args",
        "kwargs",
    }
    assert set(config) - {"_target_"} == wanted
    tracker = instantiate(config, _convert_="all")
    assert tracker.run_id is None
    for method in METHODS:
        assert inspect.signature(getattr(type(tracker), method)) == inspect.signature(getattr(Tracker, method))


def test_the_choices_are_those_of_the_design():
    made = {file.stem: type(instantiate(OmegaConf.load(file))) for file in CONF.glob("*.yaml")}
    assert made == {"wandb": WandbTracker, "jsonl": NullTracker, "none": NullTracker}
    assert OmegaConf.load(CONF / "wandb.yaml").mode == "offline"


def test_the_null_tracker_takes_every_call_and_writes_nothing(tmp_path):
    tracker: Tracker = NullTracker()
    tracker.start(tmp_path, {}, "name", None, [], None)
    tracker.log({"train/loss": 1.0}, 1)
    tracker.curve("mse", [])
    tracker.figure("curve", tmp_path / "none.png")
    tracker.summary({})
    tracker.artifact(tmp_path)
    tracker.finish(0)
    assert not list(tmp_path.iterdir())
