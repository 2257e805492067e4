"""Small runs that several modules look at."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from commands import metarun, small
from run_checks import ALWAYS_SAVED

from metarun.experiment.session import Experiment


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of a small finished run with its pictures."""
    folder = tmp_path_factory.mktemp("finished")
    small(folder=folder, pictures=True)
    return folder / "run"


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory) -> Path:
    """The run that the stopped ones are compared with."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert metarun(*ALWAYS_SAVED, "hydra.run.dir=run", folder=folder).status == 0
    return folder / "run"


@pytest.fixture
def scripted(monkeypatch):
    """scripted(values): what the validations of the next runs say, whatever the learner does."""

    def script(*values: float) -> None:
        values_left = iter(values)

        def evaluate(self, split, *arguments):
            evaluation = original(self, split, *arguments)
            if split == "val":
                evaluation.values["mse"][:] = next(values_left)
            return evaluation

        monkeypatch.setattr(Experiment, "evaluate", evaluate)

    original = Experiment.evaluate
    return script


@pytest.fixture
def interrupted(tmp_path, monkeypatch) -> Path:
    """The folder of a run that stopped after 33 iterations, with its last checkpoint at 33."""
    save = Experiment.save

    def stop_at_33(self, name):
        save(self, name)
        if name == "last" and self.state.iteration == 32:  # heard after the next step
            self.received_signals.append(signal.SIGTERM)

    monkeypatch.setattr(Experiment, "save", stop_at_33)
    assert metarun(*ALWAYS_SAVED, "hydra.run.dir=run", folder=tmp_path).status == 143
    monkeypatch.undo()
    return tmp_path / "run"
