"""What a command asks for, wherever its flags stand and however its settings are written."""

from __future__ import annotations

import pytest

from metarun.cli.command import Command
from metarun.experiment.choices import names, own_folders
from metarun.experiment.overrides import UsageError


@pytest.fixture(autouse=True)
def no_own_folders():
    yield
    own_folders.name()


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "algo=maml", "--cfg", "job", "seed=1,2"],
        ["algo=maml", "--cfg", "job", "-m", "seed=1,2"],
        ["algo=maml", "seed=1,2", "--multirun", "--cfg=job"],
    ],
)
def test_flags_stand_anywhere(arguments):
    command = Command.parse(arguments)
    assert (command.flags.multirun, command.flags.cfg) == (True, "job")
    assert command.lines == ["algo=maml", "seed=1,2"]
    assert command.first_cell == ["algo=maml", "seed=1"]


@pytest.mark.parametrize("prefix", ["", "+", "++"])
@pytest.mark.parametrize("value", ["runs/a", "'runs/a'", '"runs/a"'])
def test_a_setting_is_found_by_its_key_however_it_is_written(prefix, value):
    assert Command.parse([f"{prefix}run.resume={value}"]).value("run.resume") == "runs/a"


def test_the_last_of_several_settings_counts_and_a_deleted_one_does_not():
    assert Command.parse(["seed=1", "++seed=2"]).value("seed") == 2
    assert Command.parse(["seed=1", "~seed"]).value("seed") is None
    assert Command.parse(["seed=null"]).value("seed") is None


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [(["--info"], "all"), (["-i", "algo=maml"], "all"), (["--info", "defaults", "algo=maml"], "defaults")],
)
def test_a_setting_behind_info_is_not_its_word(arguments, kind):
    command = Command.parse(arguments)
    assert command.flags.info == kind
    assert command.lines == [word for word in arguments if "=" in word]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--algo=maml"], ["no flag --algo=maml", "write algo=maml"]),
        (["--seed", "3"], ["no flag --seed", "write seed=VALUE"]),
        (["--cfg", "jobs"], ["--cfg", "jobs"]),
        (["--cfg"], ["--cfg"]),
        (["--resolve"], ["--resolve", "--cfg"]),
        (["--run", "-m"], ["only one of"]),
        (["--experimental-rerun=x.pickle"], ["--experimental-rerun", "run.resume"]),
        (["--config-path=own"], ["--config-path", "--config-dir"]),
        (["--config-dir", "nowhere"], ["--config-dir must be a folder", "nowhere"]),
        (["hydra.searchpath=own"], ["hydra.searchpath must be a list"]),
        (["maml"], ["maml is no setting", "algo=maml"]),
        (["=5"], ["needs a key"]),
    ],
)
def test_what_cannot_be_read_is_refused(arguments, words):
    with pytest.raises(UsageError) as error:
        Command.parse(arguments)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("flag", [["--config-dir", "own"], ["--config-dir=own"], ["-cd", "own"], "hydra.searchpath"])
def test_choices_of_an_own_folder_are_known_and_composed(flag, tmp_path, monkeypatch):
    (tmp_path / "own" / "algo").mkdir(parents=True)
    (tmp_path / "own" / "algo" / "mine.yaml").write_text("defaults: [maml, _self_]\ninner_lr: 0.5\n")
    monkeypatch.chdir(tmp_path)
    words = [f"hydra.searchpath=[file://{tmp_path / 'own'}]"] if flag == "hydra.searchpath" else flag
    command = Command.parse(["algo=mine", *words, "seed=3"])
    assert "mine" in names("algo")
    assert command.compose().algo.inner_lr == 0.5
    Command.parse([])
    assert "mine" not in names("algo")
