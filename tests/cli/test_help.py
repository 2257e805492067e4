"""What `metarun --help` prints."""

from __future__ import annotations

import re

import pytest
from commands import metarun
from hydra import compose, initialize_config_dir

from metarun.cli.help import help_text, listed
from metarun.experiment.choices import CONF, GROUPS


def test_help_lists_the_choices_of_every_group(tmp_path):
    outcome = metarun("--help", folder=tmp_path)
    assert outcome.status == 0
    for group in GROUPS:
        line = re.search(rf"^  {group} +(.+(?:\n {{10,}}.+)*)", outcome.out, re.M)
        assert line, group
        words = line.group(1).replace("/... (", "/...(").split()
        assert set(words) >= {entry.replace(" ", "") for entry in listed(group)}, group
    assert "learn2learn/maml" in outcome.out
    assert not list(tmp_path.iterdir())


def test_many_choices_of_one_folder_are_one_entry(monkeypatch):
    monkeypatch.setattr(
        "metarun.cli.help.names", lambda group: ["maml", "l2l/maml", "l2l/anil", "p/t/1", "p/t/2", "p/u/1"]
    )
    assert listed("experiment") == ["maml", "l2l/maml", "l2l/anil", "p/t/... (2)", "p/u/1"]


@pytest.mark.slow
def test_the_examples_in_the_help_compose():
    examples = re.findall(r"^  metarun ((?:-m )?[a-z]\S*=.*?)(?:  .*)?$", help_text(), re.M)
    assert len(examples) == 5
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for example in examples:
            words = [word for word in example.split() if "=" in word]
            for choice in range(max(word.count(",") for word in words) + 1):
                compose("config", [pick(word, choice) for word in words])


def pick(word: str, choice: int) -> str:
    """One of a sweep's values."""
    key, _, values = word.partition("=")
    return f"{key}={values.split(',')[choice % len(values.split(','))]}"
