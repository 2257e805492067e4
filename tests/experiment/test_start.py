"""Where a run starts that goes on from another."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
from commands import SMALL, metarun, small
from torch import nn

from metarun.experiment.errors import ConfigError
from metarun.experiment.start import extend, iterations_of, refuse_other_schedule, take_weights
from metarun.learner.learner import Learner, Stage
from metarun.run_folder import DamagedFileError, read_result


class Two(Learner):
    """Two layers, the second of any width."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.functional.mse_loss)
        self.first, self.head = nn.Linear(2, 3), nn.Linear(3, width)

    def adapt(self, support, random_inputs=()):
        return lambda x: self.head(self.first(x))


def test_tensors_of_the_same_name_and_shape_are_taken_and_the_rest_is_listed(tmp_path, caplog):
    source, learner = Two(4), Two(5)
    source.progress.fill_(0.5)
    initial = learner.head.weight.clone()
    with caplog.at_level(logging.WARNING):
        take_weights(learner, {**source.state_dict(), "more": torch.zeros(1)}, tmp_path)
    assert torch.equal(learner.first.weight, source.first.weight) and learner.progress == 0
    assert torch.equal(learner.head.weight, initial)
    first, second = caplog.messages
    assert "initial values keep head.weight [5, 3], head.bias [5]" in first
    assert "not used are head.weight [4, 3], head.bias [4], more [1]" in second


def test_where_all_fit_nothing_is_said_and_where_none_does_it_is_refused(tmp_path, caplog):
    take_weights(Two(4), Two(4).state_dict(), tmp_path)
    assert not caplog.messages
    with pytest.raises(ConfigError, match=r"no tensor of the same name and shape. It has other.weight \[1, 1\]"):
        take_weights(Two(4), {"other.weight": torch.zeros(1, 1), "progress": torch.zeros(())}, tmp_path)


def test_a_run_is_not_made_longer_where_its_first_part_would_change():
    learner = Two(4)
    refuse_other_schedule(learner, 9)
    learner.stages = (Stage("batches", 0.5), Stage("episodes", 0.5))
    with pytest.raises(ConfigError, match="run.iterations=9 .* its stages take shares"):
        refuse_other_schedule(learner, 9)
    learner.stages, type(learner).uses_progress = (Stage(),), True
    with pytest.raises(ConfigError, match="run.iterations=9 .* the fraction"):
        refuse_other_schedule(learner, 9)
    type(learner).uses_progress = False


def test_the_folder_notes_more_iterations(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("run: {iterations: 3}\nalgo: {eval_steps: '${run.x}'}\n")
    before = (tmp_path / ".hydra" / "config.yaml").read_bytes()
    extend(tmp_path, 5)
    assert iterations_of(tmp_path) == 5
    assert (tmp_path / ".hydra" / "config.yaml").read_bytes() == before
    (tmp_path / "extended.json").write_text('{"iterations": "many"}')
    with pytest.raises(DamagedFileError, match="extended.json"):
        iterations_of(tmp_path)


@pytest.mark.slow
def test_a_finished_run_made_longer_equals_one_that_was_as_long_at_once(tmp_path):
    whole = small("run.iterations=40", folder=tmp_path, name="whole")
    small("run.iterations=20", folder=tmp_path, name="part")
    shutil.copytree(tmp_path / "part", tmp_path / "copy")
    outcome = metarun("run.resume=part", "run.iterations=40", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    ours = read_result(tmp_path / "part")
    assert (ours["iterations"], ours["mean"], ours["steps"]) == (40, whole["mean"], whole["steps"])
    assert "nothing to resume" in metarun("run.resume=part", folder=tmp_path).out
    assert metarun("run.resume=part", "run.iterations=20", folder=tmp_path).status == 2


@pytest.mark.slow
def test_another_learner_starts_from_a_cell_of_a_multirun(tmp_path):
    sizes = ["run.iterations=2" if word.startswith("run.iterations") else word for word in SMALL]
    start = [*sizes, "algo=maml", "sweep.seed=[0]", "hydra.sweep.dir=sw"]
    assert metarun("-m", *start, folder=tmp_path).status == 0
    (tmp_path / "sw" / "maml").rename(tmp_path / "sw" / "seed=0, a")
    outcome = metarun(*sizes, "algo=meta_sgd", "run.init_from=sw/seed=0, a", "hydra.run.dir=run", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    log = (tmp_path / "run" / "metarun.log").read_text()
    assert "run.init_from=sw/seed=0, a" in log and "initial values keep" in log
