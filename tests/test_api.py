"""metarun from Python: what the command line does, in the calling program."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from commands import SMALL, metarun
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from run_checks import weights

import metarun as package
from metarun.api import overrides_of
from metarun.experiment.choices import CONF
from metarun.experiment.session import Experiment
from metarun.run_folder import read_choices, read_config, read_overrides, read_result

TINY = {"iterations": 4, "meta_batch_size": 2, "eval_tasks": 4, "val_tasks": 4, "validate_every": 2, "curve_steps": 1}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Runs go below the working folder; pictures take longer than they."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("metarun.experiment.run.draw_result", lambda *_, **__: None)


def test_a_run_trained_from_python_is_the_one_of_the_command_line(tmp_path, capsys):
    made = package.train(*SMALL, "seed=2", run={"iterations": 20}, hydra={"run": {"dir": "python"}})
    assert made.folder == tmp_path / "python" and made.result["status"] == "completed"
    assert made.result == read_result(made.folder) and "exit_status" not in made.result
    assert metarun(*SMALL, "seed=2", "run.iterations=20", "hydra.run.dir=command", folder=tmp_path).status == 0
    ours, theirs = weights(tmp_path / "python"), weights(tmp_path / "command")
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    for read in (read_config, read_choices, read_overrides):
        assert read(tmp_path / "python") == read(tmp_path / "command")
    assert "mse" in capsys.readouterr().out


def ours_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that metarun, Hydra and W&B read; torch keeps a note of its own there."""
    return {name: value for name, value in environment.items() if name.startswith(("WANDB", "HYDRA", "METARUN"))}


@pytest.mark.slow
def test_it_is_quiet_about_hydra_and_leaves_the_program_as_it_was(tmp_path):
    torch.use_deterministic_algorithms(False)  # as another test may have left it
    before = (torch.get_rng_state(), torch.get_num_threads(), ours_of(os.environ), Path.cwd())
    with initialize_config_dir(str(CONF), version_base="1.3"):  # as a program that uses Hydra itself
        first = package.train("tracker=none", "device.threads=1", "device.deterministic=true", run=TINY)
        second = package.train("tracker=none", seed=1, run=TINY)
        assert GlobalHydra.instance().is_initialized() and compose("config").seed == 0
    assert not GlobalHydra.instance().is_initialized()
    assert first.folder != second.folder and first.folder.parent == tmp_path / "outputs" / "sinusoid" / "maml"
    assert torch.equal(torch.get_rng_state(), before[0]) and not torch.are_deterministic_algorithms_enabled()
    assert (torch.get_num_threads(), ours_of(os.environ), Path.cwd()) == before[1:]


def test_it_trains_in_a_thread_where_no_signal_can_be_set():
    made: list[package.FinishedRun] = []
    thread = threading.Thread(target=lambda: made.append(package.train("tracker=none", run=TINY)))
    thread.start()
    thread.join()
    assert made[0].result["status"] == "completed"


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        (["algo=mmal"], {}, "there is no algo=mmal; did you mean maml"),
        (["algo.iner_lr=1"], {}, "there is no setting algo.iner_lr. Nearest: .*algo.inner_lr"),
        ([], {"run": {"iterations": 0}}, "run.iterations must be an integer of at least 1; got 0"),
        (["algo=protonet"], {}, "algo=protonet cannot run on data=sinusoid"),
        (["data=omniglot", "data.root=nowhere"], {}, "nowhere"),
        (["-m", "seed=0,1"], {}, "must ask for one run"),
        (["seed=0,1"], {}, "."),
        (["run.resume=nowhere"], {}, "nowhere is no run's folder"),
    ],
)
def test_what_is_refused_is_a_config_error_and_leaves_nothing(words, settings, message, tmp_path, capsys):
    with pytest.raises(package.ConfigError, match=message):
        package.train("tracker=none", *words, **settings)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_a_run_that_diverges_is_returned_one_that_fails_is_raised(monkeypatch):
    diverged = package.train("tracker=none", "algo.inner_lr=1e30", run=TINY)
    assert diverged.result["status"] == "diverged"

    def broken(*_, **__):
        raise OSError("the disk is gone")

    monkeypatch.setattr(Experiment, "save", broken)
    with pytest.raises(RuntimeError, match="failed: OSError: the disk is gone"):
        package.train("tracker=none", run=TINY)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    validated = Experiment.record_validation

    def stop(self, *arguments):
        validated(self, *arguments)
        self.received_signals.append(2)

    monkeypatch.setattr(Experiment, "record_validation", stop)
    with pytest.raises(KeyboardInterrupt, match="SIGINT"):
        package.train("tracker=none", "hydra.run.dir=run", run=TINY)
    monkeypatch.setattr(Experiment, "record_validation", validated)
    assert read_result(tmp_path / "run")["status"] == "interrupted"
    resumed = package.train("run.resume=run")
    assert (resumed.folder, resumed.result["iterations"]) == (tmp_path / "run", 4)
    unbroken = package.train("tracker=none", "hydra.run.dir=unbroken", run=TINY)
    assert resumed.result["mean"] == unbroken.result["mean"]


@pytest.mark.slow
def test_a_finished_run_is_tested_again(tmp_path):
    made = package.train("tracker=none", run=TINY)
    again, more = package.evaluate(made), package.evaluate(str(made.folder), run={"eval_tasks": 8})
    assert again.result["mean"] == made.result["mean"] and again.folder != made.folder
    assert (more.result["tasks"], more.result["iterations"]) == (8, 0)
    x = torch.linspace(-4, 4, 10)
    first, second = (run.learner.adapt(x, x.sin()) for run in (made, more))
    assert torch.equal(first.predict(x), second.predict(x)) and torch.equal(first.deviation(x), second.deviation(x))


def test_settings_are_overrides():
    settings = {"algo": "learn2learn/maml", "run": {"iterations": 5, "resume": None}, "x": {"y": [1, 0.5, True, "a b"]}}
    settings |= {"path": "a=b,c'd", "name": ""}
    assert overrides_of(settings) == [
        *("algo=learn2learn/maml", "run.iterations=5", "run.resume=null", "x.y=[1,0.5,true,'a b']"),
        *(r"path='a=b,c\'d'", "name=''"),
    ]


def test_importing_metarun_waits_for_nothing():
    code = "import sys, metarun; print([name for name in ('torch', 'hydra', 'numpy') if name in sys.modules])"
    root = Path(__file__).parents[1]
    printed = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"
    assert {"train", "evaluate", "load", "preparation", "ConfigError"} <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        package.trian  # noqa: B018


def test_data_without_images_has_no_preparation():
    made = package.train("tracker=none", run=TINY)
    with pytest.raises(ValueError, match="data must be a set of images, to have a preparation; got sinusoid"):
        package.preparation(made.folder)
