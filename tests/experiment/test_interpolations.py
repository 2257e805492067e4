"""Interpolations that call something: resolved when a run begins, refused in its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import SMALL, metarun
from omegaconf import OmegaConf

import metarun as package
from metarun.experiment.interpolations import calls, only_names, refuse_calls, resolve_calls
from metarun.experiment.overrides import UsageError
from metarun.run_folder import read_config


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "x${ oc.env : A}", "${oc.${x}:y}", "${a.${b:c}}", "${\nnow:%H}"])
def test_what_could_be_a_call_is_one(text):
    assert calls(text) and calls([1, {"a": [text]}]) and calls({text: 1})


@pytest.mark.parametrize("value", ["${algo.inner_steps}", "a:b", "12:30 ${seed}", 3, None, [], "${a.${b}}"])
def test_a_reference_is_none(value):
    assert not calls(value)


def test_the_names_of_folders():
    assert only_names("${hydra.job.num}_${hydra:runtime.choices.data}_${metarun_name:${hydra:x}}_seed${seed}")
    assert not only_names("${now:%H}_${oc.env:HOME}") and not only_names("${hydra:${oc.env:HOME}}")


def test_calls_become_values_and_references_stay(monkeypatch):
    monkeypatch.setenv("NOISE", "0.5")
    cfg = OmegaConf.create({"a": "${oc.env:NOISE}", "b": {"c": ["${oc.env:NOISE}", 1], "d": "${a}"}, "hydra": "${x:y}"})
    resolve_calls(cfg)
    assert OmegaConf.to_container(cfg) == {"a": "0.5", "b": {"c": ["0.5", 1], "d": "${a}"}, "hydra": "${x:y}"}


def test_a_configuration_that_calls_is_refused_by_its_key():
    refuse_calls({"a": {"b": "${c}"}}, Path("f"))
    with pytest.raises(UsageError, match=r"^f has a.b=\$\{oc.env:HOME\}, which would read from this machine"):
        refuse_calls({"a": {"b": "${oc.env:HOME}"}}, Path("f"))


def test_a_run_keeps_what_the_environment_said_when_it_began(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISE", "0.5")
    words = ("data.noise='${oc.decode:${oc.env:NOISE}}'", "run.iterations=1", "hydra.run.dir=run")
    assert metarun(*SMALL, *words, folder=tmp_path).status == 0
    assert read_config(tmp_path / "run")["data"]["noise"] == 0.5
    run = package.train("hydra.run.dir=" + str(tmp_path / "other"), *SMALL, *words[:2])
    assert read_config(run.folder)["data"]["noise"] == 0.5
    monkeypatch.delenv("NOISE")
    assert metarun("run.resume=run", "run.iterations=2", folder=tmp_path).status == 0
