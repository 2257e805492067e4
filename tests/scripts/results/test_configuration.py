"""A record's command makes what was recorded, today too."""

from __future__ import annotations

import dataclasses

import pytest
from recorded import ONE_OF_EACH, OTHERS, RECORDS

from scripts.results.configuration import composed, differences, overrides_of, recorded


def test_what_is_recorded_is_resolved_and_changes_numbers():
    config = recorded(composed(["data=omniglot", "data.root=/mine", "data.shots=5", "tracker=none", "seed=3"]))
    assert config["data"]["train_shots"] == 5 and config["seed"] == 3
    assert "root" not in config["data"] and not {"tracker", "paper", "hydra"} & config.keys()


def test_overrides_are_those_of_the_experiment():
    command = "metarun -m hydra/launcher=fused algo=maml 'algo.initial_rates=[1,2]' hydra.sweep.dir=x"
    assert overrides_of(command) == ["algo=maml", "algo.initial_rates=[1,2]"]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_command_of_a_record_makes_its_configuration(name):
    assert differences(RECORDS[name]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_the_command_of_every_record_makes_its_configuration(name):
    assert differences(RECORDS[name]) == []


def test_a_command_that_makes_another_configuration_is_found():
    record = RECORDS["sinusoid/maml"]
    config = {**record.config, "run": {**record.config["run"], "iterations": 12000}}
    assert differences(dataclasses.replace(record, config=config)) == ["run.iterations: 12000, 15000"]
    run = {key: value for key, value in record.config["run"].items() if key != "meta_batch_size"}
    old = {**record.config, "run": {**run, "meta_batch": 25}}  # by its earlier name
    assert differences(dataclasses.replace(record, config=old)) == []
