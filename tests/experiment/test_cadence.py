"""What happens between two outer steps: in one order, as often as the configuration says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import pytest

from metarun.experiment import cadence
from metarun.experiment.cadence import between_steps, is_due
from metarun.experiment.errors import InterruptedRun
from metarun.experiment.trainer import Trainer
from metarun.fused.program import Program
from metarun.training.compilation import CompilationError


class Step(NamedTuple):
    iteration: int


class Recorder:
    """Keeps what is asked of it."""

    validation, compiled = None, False

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.calls, self.train_seconds = stop_at, [], 5.0
        self.seconds: list[float] = []

    def record_step(self, index, step):
        self.index, self.step = index, step
        self.calls.append(f"record {index}")
        self.seconds.append(self.train_seconds)

    def log(self, step):
        self.calls.append(f"log {step.iteration}")

    def validate(self, iteration):
        self.calls.append(f"validate {iteration}")

    def loss(self, step):
        return None

    def save(self):
        self.calls.append(f"save {self.step.iteration}")

    def stop_requested(self):
        return self.step.iteration == self.stop_at

    def raise_if_stop_requested(self):
        raise InterruptedRun(15)


def config(log_every=2, validate_every=3, checkpoint_seconds=1e9):
    return SimpleNamespace(log_every=log_every, validate_every=validate_every, checkpoint_seconds=checkpoint_seconds)


def follow(run, steps=5, start=0, **changes):
    every = config(**changes)
    between_steps(map(Step, range(start + 1, steps + 1)), run, every, steps, start, "title", "mse")
    return run.calls


def test_each_step_is_recorded_then_logged_then_validated_and_the_last_is_saved():
    assert follow(Recorder()) == [
        *("record 0", "record 1", "log 2", "record 2", "validate 3", "record 3", "log 4"),
        *("record 4", "log 5", "validate 5", "save 5"),
    ]


def test_a_resumed_training_counts_from_where_it_is():
    assert follow(Recorder(), start=3) == ["record 0", "log 4", "record 1", "log 5", "validate 5", "save 5"]


def test_checkpoints_follow_the_clock():
    assert [call for call in follow(Recorder(), checkpoint_seconds=0) if "save" in call] == [
        f"save {k}" for k in range(1, 6)
    ]


def test_a_signal_is_heard_between_two_steps_after_a_checkpoint():
    run = Recorder(stop_at=2)
    with pytest.raises(InterruptedRun):
        follow(run)
    assert run.calls[-2:] == ["log 2", "save 2"]


def test_training_time_goes_on_from_what_was_before(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(cadence.time, "perf_counter", lambda: float(next(clock)))
    run = Recorder()
    follow(run)
    assert run.seconds == sorted(run.seconds) and run.seconds[0] > 5.0 and run.train_seconds > run.seconds[-1]


@pytest.mark.parametrize(("iteration", "due"), [(1, False), (4, True), (7, False), (10, True)])
def test_what_is_due_every_four_steps_is_due_after_the_last_too(iteration, due):
    assert is_due(iteration, 4, 10) is due


def test_single_and_fused_training_offer_the_same():
    wanted = {name for name in vars(cadence.Between) if not name.startswith("_")} | {"train_seconds"}
    assert wanted <= set(dir(Trainer)) and wanted <= set(dir(Program)) | {"validation", "compiled"}


class Stopped(Recorder):
    """A signal came while torch compiled; or none did."""

    def __init__(self, stopped: bool) -> None:
        super().__init__()
        self.stopped = stopped

    def stop_requested(self):
        return self.stopped


def uncompilable():
    raise CompilationError("torch cannot compile: CppCompileError: killed")
    yield


@pytest.mark.parametrize(("stopped", "error"), [(True, InterruptedRun), (False, CompilationError)])
def test_a_compiler_that_is_stopped_with_the_run_is_no_failure(stopped, error):
    with pytest.raises(error):
        between_steps(uncompilable(), Stopped(stopped), config(), 5, 0, "title", "mse")


@pytest.mark.parametrize(("compiled", "note"), [(True, True), (False, False)])
def test_a_run_says_that_it_begins_and_what_it_waits_for(compiled, note, caplog):
    run = Recorder()
    run.compiled = compiled
    with caplog.at_level("INFO"):
        follow(run)
    assert caplog.messages[0].startswith("title: 0 of 5")
    assert ("compiling" in caplog.messages[0]) is note
    caplog.clear()
    with caplog.at_level("INFO"):
        follow(Recorder(), steps=3, start=5)  # nothing is left to do
    assert caplog.messages == []
