"""Without learn2learn everything works but its own learners, which say what is missing."""

from __future__ import annotations

import importlib.util

import pytest
from commands import SMALL, metarun

from metarun.algos.learn2learn import require_learn2learn
from metarun.experiment.choices import names

LEARNERS = [name for name in names("algo") if name.startswith("learn2learn/")]


def absent(name: str, package: str | None = None, find=importlib.util.find_spec):
    return None if name == "learn2learn" else find(name, package)


def test_a_missing_learn2learn_is_told(monkeypatch):
    require_learn2learn()
    monkeypatch.setattr("metarun.algos.learn2learn.find_spec", absent)
    with pytest.raises(ValueError, match="needs the package learn2learn, .* docs/install.md says how"):
        require_learn2learn()


@pytest.mark.parametrize("name", LEARNERS)
def test_each_of_its_learners_is_refused(name, monkeypatch, tmp_path):
    monkeypatch.setattr("metarun.algos.learn2learn.find_spec", absent)
    data = "synthetic" if name in ("learn2learn/protonet",) else "sinusoid"
    outcome = metarun(*SMALL, f"algo={name}", f"data={data}", folder=tmp_path)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("metarun: algo=learn2learn/... needs the package learn2learn")
    assert "Traceback" not in outcome.err
