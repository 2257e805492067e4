"""The registry: which choices there are, and what a choice's own file says."""

from __future__ import annotations

from metarun.experiment.choices import CONF, GROUPS, describe, names


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
