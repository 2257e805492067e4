"""Typed wins, then W&B's environment variables, then how a resumed run was begun, then the default."""

from __future__ import annotations

import pytest

from metarun.tracking.begun import read_begun, write_begun
from metarun.tracking.wandb_settings import (
    KEPT,
    VARIABLES,
    agents_run_id,
    tags_of,
    wandb_mode,
    wandb_settings,
)

NOTHING: dict[str, str] = {}
AGENT = {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "r1"}
MODES = {
    "by default": (None, NOTHING, None, "offline", ""),
    "typed": ("online", {"WANDB_MODE": "disabled", "WANDB_DISABLED": "true"}, "offline", "online", ""),
    "the environment's": (None, {"WANDB_MODE": "online"}, "offline", "online", "WANDB_MODE"),
    "in capitals": (None, {"WANDB_MODE": "ONLINE"}, None, "online", "WANDB_MODE"),
    "an older word": (None, {"WANDB_MODE": "dryrun"}, None, "offline", "WANDB_MODE"),
    "another": (None, {"WANDB_MODE": "run"}, None, "online", "WANDB_MODE"),
    "an empty variable": (None, {"WANDB_MODE": "", "WANDB_DISABLED": ""}, None, "offline", ""),
    "disabled": (None, {"WANDB_MODE": "online", "WANDB_DISABLED": "true"}, None, "disabled", "WANDB_DISABLED"),
    "not disabled": (None, {"WANDB_DISABLED": "false"}, None, "offline", ""),
    "as it was begun": (None, NOTHING, "online", "online", ""),
    "under wandb agent": (None, AGENT, None, "online", "WANDB_SWEEP_ID"),
    "under it, told otherwise": (None, AGENT | {"WANDB_MODE": "offline"}, None, "offline", "WANDB_MODE"),
    "under it, typed": ("disabled", AGENT, None, "disabled", ""),
}


@pytest.mark.parametrize(("typed", "environment", "begun", "mode", "said_by"), MODES.values(), ids=MODES)
def test_the_mode(typed, environment, begun, mode, said_by):
    assert wandb_mode(typed, environment, begun) == (mode, said_by)


@pytest.mark.parametrize("key", VARIABLES)
def test_each_key_has_its_variable(key):
    environment = {VARIABLES[key]: "theirs"}
    default = {"project": "metarun"}.get(key)
    assert getattr(wandb_settings({}, NOTHING), key) == default
    assert getattr(wandb_settings({key: None}, environment), key) == "theirs"
    assert getattr(wandb_settings({key: "typed"}, environment), key) == "typed"


def test_tags_are_a_list_or_words_with_commas():
    environment = {"WANDB_TAGS": "thesis, first,,"}
    assert tags_of(None, environment) == ("thesis", "first")
    assert tags_of([], environment) == () and tags_of(["typed"], environment) == ("typed",)
    assert tags_of(None, NOTHING) == ()


WRONG = {
    "a mode": (
        {"mode": "ofline"},
        NOTHING,
        "tracker.wandb.mode must be one of online, offline, disabled; got 'ofline'",
    ),
    "a mode that is none": ({"mode": True}, NOTHING, "tracker.wandb.mode must be one of"),
    "the environment's": ({}, {"WANDB_MODE": "sometimes"}, "WANDB_MODE must be one of online, offline, disabled; got"),
    "a project": ({"project": 3}, NOTHING, "tracker.wandb.project must be null or a text; got 3"),
    "an empty one": ({"project": ""}, NOTHING, "tracker.wandb.project must be null or a text; got ''"),
    "tags": ({"tags": "thesis"}, NOTHING, "tracker.wandb.tags must be null or a list of texts; got 'thesis'"),
    "a tag": ({"tags": [1]}, NOTHING, "tracker.wandb.tags must be null or a list of texts; got"),
}


@pytest.mark.parametrize(("typed", "environment", "message"), WRONG.values(), ids=WRONG)
def test_what_makes_no_sense_is_refused_by_name(typed, environment, message):
    with pytest.raises(ValueError, match=message):
        wandb_settings(typed, environment)


def test_one_run_takes_the_agent_s_id_and_a_multirun_s_do_not():
    assert agents_run_id(AGENT, several=False) == "r1"
    assert agents_run_id(AGENT, several=True) is None
    assert agents_run_id({"WANDB_RUN_ID": ""}, several=False) is None


def test_a_resumed_run_goes_on_where_it_was_begun(tmp_path):
    begun = wandb_settings({}, {"WANDB_MODE": "online", "WANDB_PROJECT": "warm-up", "WANDB_ENTITY": "our-team"})
    write_begun(tmp_path / "settings.json", begun.kept())
    kept = read_begun(tmp_path / "settings.json", KEPT)
    assert kept == begun.kept() == {"mode": "online", "project": "warm-up", "entity": "our-team"}
    assert wandb_settings({}, NOTHING, kept).kept() == kept
    assert wandb_settings({"project": "typed"}, {"WANDB_MODE": "offline"}, kept).kept() == {
        "mode": "offline",
        "project": "typed",
        "entity": "our-team",
    }


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"mode": 3, "project": ["x"]}', "[" * 100_000])
def test_a_damaged_record_of_it_is_none(text, tmp_path):
    (tmp_path / "settings.json").write_text(text)
    assert read_begun(tmp_path / "settings.json", KEPT) == read_begun(tmp_path / "none", KEPT) == {}
