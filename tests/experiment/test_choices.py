"""The registry: which choices there are, and what a choice's own file says."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from metarun.experiment.choices import (
    CONF,
    GROUPS,
    choice_text,
    describe,
    is_of_published_pair,
    keep_several,
    names,
    names_in,
    setting_scheduler,
)


def test_choices_are_the_files_nested_ones_too():
    assert {"maml", "learn2learn/maml"} <= set(names("algo"))
    assert all((CONF / "data" / f"{name}.yaml").is_file() for name in names("data"))
    assert names("no_such_group") == []
    assert all((CONF / group).is_dir() for group in GROUPS if names(group))


def test_a_choice_builds_on_another():
    plain, varied = describe("data", "sinusoid"), describe("data", "sinusoid_varied")
    assert varied["_target_"] == plain["_target_"]
    assert plain["frequency"] == [1.0, 1.0] and varied["frequency"] == [0.8, 1.2]
    assert varied["amplitude"] == plain["amplitude"]


def test_a_choice_in_a_folder_builds_on_one_outside():
    assert describe("algo", "learn2learn/fomaml")["first_order"] is True
    assert describe("algo", "learn2learn/fomaml")["_target_"].endswith("Learn2LearnMAML")


def test_a_schedulers_choices_for_people_are_those_outside_of_folders():
    assert names("scheduler") == sorted(path.stem for path in (CONF / "scheduler").glob("*.yaml"))
    assert "constant" in names("scheduler")


def test_a_setting_has_its_own_scheduler_or_that_of_the_setting_it_builds_on():
    assert setting_scheduler("omniglot/protonet") == "omniglot/protonet"
    assert setting_scheduler("omniglot/learn2learn/fomaml") == "omniglot/maml"  # by way of omniglot/fomaml
    assert setting_scheduler("sinusoid/maml_pp") == "constant"  # a setting without
    assert setting_scheduler("sinusoid/joint") == "constant"  # no setting


@pytest.mark.parametrize(
    ("choices", "published"),
    [
        ({"data": "omniglot", "algo": "maml", "setting": "omniglot/maml"}, True),
        ({"data": "imagefolder", "algo": "maml", "setting": "miniimagenet/maml"}, False),
        ({"data": "miniimagenet", "algo": "protonet", "setting": "miniimagenet/maml"}, False),
        ({"data": "omniglot", "algo": "mtnet", "experiment": "mtnet/omniglot/mtnet_5way1shot"}, True),
        ({"data": "synthetic", "algo": "mtnet", "experiment": "mtnet/omniglot/mtnet_5way1shot"}, False),
        ({"data": "omniglot", "algo": "maml", "experiment": "mtnet/omniglot/mtnet_5way1shot"}, False),
        ({"data": "omniglot", "algo": "maml", "setting": "omniglot/maml", "experiment": "null"}, True),
        ({"data": "synthetic", "algo": "maml"}, True),
    ],
)
def test_published_figures_are_of_their_own_data_and_algorithm(choices, published):
    assert is_of_published_pair(choices) == published


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("wandb", "wandb"),
        (None, "None"),
        (["wandb"], "wandb"),
        (["wandb", "wandb"], "wandb"),
        (["wandb", "none"], "[wandb,none]"),
    ],
)
def test_a_choice_as_it_is_kept(typed, kept):
    assert choice_text(typed) == kept
    assert names_in(kept) == (list(dict.fromkeys(typed)) if isinstance(typed, list) else [kept])


@pytest.mark.parametrize(
    ("config", "typed", "kept"),
    [
        ({"wandb": {}, "jsonl": {}}, {}, "[wandb,jsonl]"),  # a file's
        ({"wandb": {}}, {"tracker": ["wandb", "none"]}, "[wandb,none]"),
        ({}, {}, "none"),
    ],
)
def test_several_choices_which_hydra_leaves_out_are_kept(config, typed, kept):
    hydra = OmegaConf.create({"runtime": {"choices": {"algo": "maml"}}})
    OmegaConf.set_readonly(hydra, True)
    keep_several(hydra, {"tracker": config}, typed)
    assert hydra.runtime.choices == {"algo": "maml", "tracker": kept}
    keep_several(hydra, {"tracker": config}, {"tracker": ["other"]})
    assert hydra.runtime.choices.tracker == kept
