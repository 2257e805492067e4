"""From a configuration to objects, and a finished run's weights again."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest
import torch
from commands import SMALL, metarun, small
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from PIL import Image
from run_checks import weights

import metarun as package
from metarun.experiment.build import build, saved_config
from metarun.experiment.choices import CONF
from metarun.experiment.errors import ConfigError
from metarun.experiment.schema import RunConfig, checked
from metarun.run_folder import read_result
from metarun.tasks import Examples, Task


@pytest.mark.slow
def test_the_loaded_learner_predicts_what_the_run_measured(finished):
    cfg, choices = saved_config(finished)
    components = build(cfg, choices)
    state = torch.get_rng_state()
    learner = package.load(finished)
    assert torch.equal(torch.get_rng_state(), state)  # loading leaves the caller's random numbers alone
    assert not learner.learner.training
    batch = components.data.eval_block("test", "episodes", 0)
    errors = []
    for t in range(20):
        task = Task(*(Examples(*(leaf[t] for leaf in part)) for part in batch))
        predicted = learner.adapt(task.support)(task.query.x)
        errors.append(float((predicted - task.query.y).square().mean()))
    assert np.mean(errors) == pytest.approx(read_result(finished)["mean"], rel=1e-5)


def test_a_learner_is_loaded_where_its_data_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = tmp_path / "images"
    for part, colour in itertools.product(("train", "val", "test"), range(5)):
        (images / part / str(colour)).mkdir(parents=True)
        for number in range(3):
            picture = Image.new("L", (16, 16), 40 * colour + number)
            picture.save(images / part / str(colour) / f"{number}.png")
    small(
        *("data=imagefolder", f"data.root={images}", "data.size=16", "data.channels=1", "data.queries=2"),
        *("backbone.filters=4", "run.iterations=1"),
        folder=tmp_path,
    )
    shutil.rmtree(images)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    learner = package.load(tmp_path / "run")
    support = Examples(torch.rand(5, 1, 16, 16), torch.arange(5))
    assert learner.adapt(support)(torch.rand(3, 1, 16, 16)).shape == (3, 5)


@pytest.mark.slow
def test_evaluate_tests_a_finished_run_again_in_a_folder_of_its_own(finished, tmp_path):
    before = sorted((path.name, path.stat().st_mtime_ns) for path in finished.rglob("*"))
    again = small(f"run.evaluate={finished}", folder=tmp_path)
    assert again["mean"] == read_result(finished)["mean"]
    assert again["iterations"] == 0
    assert sorted((path.name, path.stat().st_mtime_ns) for path in finished.rglob("*")) == before
    outcome = metarun(f"run.evaluate={finished}", "run.eval_tasks=40", "hydra.run.dir=more", folder=tmp_path)
    assert outcome.status == 0
    more = read_result(tmp_path / "more")
    assert (more["tasks"], more["threads"], more["seed"]) == (40, 1, 0)  # the run's own settings hold
    assert more["episodes"] != again["episodes"]


def test_init_from_starts_with_another_runs_weights_and_its_own_numbers(finished, tmp_path):
    small(f"run.init_from={finished}", "run.iterations=1", "optimizer.lr=1e-12", "algo.inner_lr=0.02", folder=tmp_path)
    for key, value in weights(finished, "best").items():
        if key != "progress":
            assert torch.allclose(value, weights(tmp_path / "run")[key], atol=1e-10), key
    assert float(package.load(tmp_path / "run").learner.inner_lr) == pytest.approx(0.02)


@pytest.mark.slow
def test_evaluate_of_a_run_that_was_started_from_another_takes_its_own_weights(finished, tmp_path):
    result = small(f"run.init_from={finished}", "seed=3", "optimizer.lr=0.01", folder=tmp_path)
    again = small(f"run.evaluate={tmp_path / 'run'}", folder=tmp_path, name="again")
    assert again["mean"] == result["mean"] != read_result(finished)["mean"]


def test_weights_of_which_none_fits_are_refused(finished, tmp_path):
    learner = ("algo=alpaca", "data=sinusoid")
    outcome = metarun(*SMALL, *learner, f"run.init_from={finished}", "backbone.hidden=[3]", folder=tmp_path)
    assert outcome.status == 2
    assert f"run.init_from={finished}" in outcome.err and len(outcome.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_learners_class_is_the_configured_one(finished):
    assert isinstance(package.load(finished).learner, get_class("metarun.algos.maml.MAML"))


@pytest.mark.parametrize(
    ("overrides", "tasks"),
    [
        ([], 200),
        (["run.eval_tasks=20"], 20),
        (["run.eval_tasks=200"], 200),
        (["run.eval_tasks=20", "run.val_tasks=50"], 50),
    ],
)
def test_validation_has_no_more_tasks_than_the_test_unless_told_to(overrides, tasks):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        run = compose("config", overrides).run
    assert RunConfig(**run).val_tasks == tasks


def test_a_number_of_tasks_that_is_none_is_refused_as_such():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["run.eval_tasks=many"])
    with pytest.raises(ConfigError, match=r"^run\.eval_tasks must be an integer of at least 1; got 'many'$"):
        checked(config)


def test_the_test_tasks_are_of_the_stream_that_run_eval_seed_says():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["run.eval_seed=3"], return_hydra_config=True)
    choices = {str(group): str(name) for group, name in cfg.hydra.runtime.choices.items()}
    assert build(cfg, choices).data.eval_seed == 3
