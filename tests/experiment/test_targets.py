"""Classes that a configuration may name, and harm that it may not do."""

from __future__ import annotations

import os
import shutil

import pytest
import yaml
from commands import SMALL, metarun
from omegaconf import OmegaConf

import metarun as package
from metarun.experiment.build import build, saved_config
from metarun.experiment.errors import ConfigError
from metarun.experiment.targets import allowed_packages, class_at, refuse_foreign_targets

LEARNER = {"_target_": "metarun.algos.maml.MAML", "inner_lr": 0.1}
OPTIMIZER = {"_target_": "torch.optim.Adam", "_partial_": True}

# What a configuration from somebody else may try: (node, the key that the refusal names).
HARM = [
    ({"data": {"_target_": "numpy.load", "file": "evil.pkl", "allow_pickle": True}}, "data._target_"),
    (
        {"data": {"_target_": "metarun.data.sinusoid.Sinusoid", "noise": {"_target_": "numpy.load"}}},
        "data.noise._target_",
    ),
    ({"algo": LEARNER | {"inner_lr": {"_target_": "os.system", "command": "x"}}}, "algo.inner_lr._target_"),
    ({"algo": LEARNER | {"inner_lr": [[{"_target_": "os.system"}]]}}, "algo.inner_lr[0][0]._target_"),
    ({"algo": {"_target_": "metarun.experiment.cell.Path"}}, "algo._target_"),  # imported there, not defined
    ({"algo": {"_target_": "metarun.experiment.multirun.shutil.rmtree", "path": "x"}}, "algo._target_"),
    ({"algo": {"_target_": "metarun.files.write_text", "path": "x"}}, "algo._target_"),  # no class
    ({"algo": {"_target_": "metarun.data.sinusoid.Sinusoid"}}, "algo._target_"),  # of another kind
    ({"data": {"_target_": "metarun.algos.maml.MAML"}}, "data._target_"),
    ({"data": {"_target_": "metarunevil.Data"}}, "data._target_"),
    ({"data": {"_target_": ["os.system"]}}, "data._target_"),
    ({"data": {"_target_": "${evil}"}}, "data._target_"),
    ({"data": {"_target_": None}}, "data._target_"),
    ({"data": {"_target_": "metarun"}}, "data._target_"),
    ({"data": {"_target_": "metarun.data.absent.Data"}}, "data._target_"),
    ({"optimizer": {"_target_": "torch.optim.optimizer.torch.load", "f": "x"}}, "optimizer._target_"),
    ({"optimizer": {"optimizer": OPTIMIZER | {"_target_": "torch.load"}}}, "optimizer.optimizer._target_"),
    ({"optimizer": {"optimizer": OPTIMIZER | {"_target_": "torch.optim.adam.cast"}}}, "optimizer.optimizer._target_"),
    ({"optimizer": {"optimizer": OPTIMIZER | {"_partial_": False}}}, "optimizer.optimizer._partial_"),
    ({"optimizer": {"optimizer": OPTIMIZER | {"_args_": [1]}}}, "optimizer.optimizer._args_"),
    ({"scheduler": OPTIMIZER}, "scheduler._target_"),
    ({"backbone": {"_target_": "metarun.tasks.Task"}}, "backbone._target_"),
    ({"tracker": {"x": {"_target_": "subprocess.Popen", "args": "x"}}}, "tracker.x._target_"),
    ({"run": {"resume": {"_target_": "os.system"}}}, "run.resume._target_"),
    ({"paper": [{"_target_": "os.system"}]}, "paper[0]._target_"),
    ({"more": {"_target_": "metarun.algos.maml.MAML"}}, "more._target_"),  # of ours, but in no place of ours
    ({"algo": LEARNER | {"loss": {"_target_": "metarun.algos.maml.MAML"}}}, "algo.loss._target_"),
    ({"algo": LEARNER | {"_args_": [1]}}, "algo._args_"),
    ({"algo": LEARNER | {"_partial_": True}}, "algo._partial_"),
    ({"algo": LEARNER | {"_recursive_": False}}, "algo._recursive_"),
    ({"algo": LEARNER | {"_convert_": "none"}}, "algo._convert_"),
    ({"data": {"x": {"_partial_": True}}}, "data.x._partial_"),
]


@pytest.mark.parametrize(("config", "key"), HARM)
def test_what_is_not_allowed_is_refused_by_its_key(config, key):
    with pytest.raises(ValueError) as refusal:
        refuse_foreign_targets(config)
    assert str(refusal.value).startswith(f"{key} must ")


def test_nothing_is_imported_before_all_is_looked_at(monkeypatch):
    monkeypatch.setenv("METARUN_ALLOW", "tests")
    config = {"algo": {"_target_": "tests.absent.Learner"}, "data": {"_target_": "os.system"}}
    with pytest.raises(ValueError, match=r"^data._target_ must be of metarun"):
        refuse_foreign_targets(config)


def test_classes_of_ours_are_allowed_in_their_places():
    refuse_foreign_targets({"algo": LEARNER, "optimizer": {"optimizer": OPTIMIZER}, "tracker": {}, "scheduler": {}})
    assert class_at("algo", LEARNER["_target_"]).__name__ == "MAML"


def test_a_package_is_allowed_by_the_environment(monkeypatch):
    config = {"data": {"_target_": "trouble.Sinusoid", "cell": {"_target_": "trouble.Sinusoid", "_partial_": True}}}
    refuse_foreign_targets(config)
    monkeypatch.setenv("METARUN_ALLOW", " mine, other ")
    assert allowed_packages() == ("metarun", "torch.optim", "mine", "other")
    with pytest.raises(ValueError, match=r"--allow=trouble allows this one"):
        refuse_foreign_targets(config)
    monkeypatch.setenv("METARUN_ALLOW", "trouble")
    for inner in ("trouble.os.kill", "trouble.Path", "trouble.sinusoid.torch.load"):  # imported there, not defined
        nodes = {"data": {"_target_": "trouble.Sinusoid", "cell": {"_target_": inner}}}
        with pytest.raises(ValueError, match=r"^data.cell._target_ must be"):
            refuse_foreign_targets(nodes)


def test_the_command_allows_packages_by_a_flag(tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_ALLOW", "mine")
    words = (*SMALL, "run.iterations=1", "data._target_=trouble.Sinusoid", "+data.cell=x", "hydra.run.dir=run")
    assert metarun("--allow", "tests,trouble", *words, folder=tmp_path).status == 0
    assert os.environ["METARUN_ALLOW"] == "mine"
    refused = metarun("--allow", "a/b", *words, folder=tmp_path)
    assert (refused.status, refused.err) == (2, "metarun: --allow must be the name of a package; got 'a/b'\n")


def test_a_module_of_the_users_that_fails_is_told():
    with pytest.raises(ValueError, match=r"^data._target_ must be a class that can be imported; got 'tests.absent.A'"):
        class_at("data", "tests.absent.A")


@pytest.fixture
def foreign(finished, tmp_path):
    """foreign(key, value): a copy of a run's folder whose configuration was changed."""

    def change(key, value):
        folder = shutil.copytree(finished, tmp_path / "foreign")
        config = OmegaConf.load(folder / ".hydra" / "config.yaml")
        OmegaConf.update(config, key, value, force_add=True)
        (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(OmegaConf.to_container(config)))
        return folder

    return change


def test_a_folder_from_somebody_else_runs_no_code(foreign, tmp_path):
    mark = tmp_path / "mark"
    folder = foreign("data.noise", {"_target_": "os.mkdir", "path": str(mark)})
    with pytest.raises(ConfigError, match=r"^data.noise._target_ must be of metarun"):
        package.load(folder)
    outcome = metarun(f"run.resume={folder}", folder=tmp_path)
    assert (outcome.status, mark.exists()) == (2, False)
    assert "data.noise._target_ must be of metarun" in outcome.err


def test_code_cannot_be_made_by_resolving_once_more(finished, monkeypatch):
    """A resolver may answer with an interpolation, which would become a node after the check."""
    monkeypatch.setitem(os.environ, "EVIL", "${oc.create:{_target_:os.system}}")
    cfg, choices = saved_config(finished)
    cfg.data.noise = "${oc.env:EVIL}"
    with pytest.raises(ConfigError, match=r"^data.noise must be text without interpolations"):
        build(cfg, choices)


def test_the_command_says_how_to_allow_a_package(tmp_path, monkeypatch):
    monkeypatch.delenv("METARUN_ALLOW")
    outcome = metarun(*SMALL, "data._target_=trouble.Sinusoid", "hydra.run.dir=run", folder=tmp_path)
    assert (outcome.status, list(tmp_path.iterdir())) == (2, [])
    assert outcome.err.startswith(
        "metarun: data._target_ must be of metarun or torch.optim, or of a package that --allow or METARUN"
    )
