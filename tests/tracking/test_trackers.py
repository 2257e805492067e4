"""Several trackers as one: each records everything, ids are kept by name, and one that cannot start stops the run."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from commands import SMALL, metarun

from metarun.run_folder import read_tracker_ids
from metarun.tracking.tracker import Tracker, TrackerError
from metarun.tracking.trackers import Trackers, write_run_ids

CALLS = {
    "log": ({"train/loss": 1.0}, 10),
    "curve": ("mse", [{"step": 0, "mean": 1.0, "ci95": 0.1, "median": 1.0}]),
    "figure": ("step_curve", Path("step_curve.png")),
    "table": ("instances", ["instance"], [[1]]),
    "lines": ("curve/roc", "false positive rate", {"pairs": [(0.0, 1.0), (1.0, None)]}),
    "summary": ({"status": "completed"},),
    "artifact": (Path("checkpoint"),),
    "finish": (0,),
}


class Recorder:
    """A tracker that keeps its calls; its service names a run `run_id`, unless it continues one."""

    made: list[Recorder] = []

    def __init__(self, new_id: str | None = "new", error: str | None = None) -> None:
        self.new_id, self.error = new_id, error
        self.run_id: str | None = None
        self.calls: list[tuple] = []
        Recorder.made.append(self)

    def start(self, folder, config, name, group, tags, run_id):
        self.calls.append(("start", folder, config, name, group, tags, run_id))
        if self.error:
            raise TrackerError(self.error)
        self.run_id = run_id or self.new_id

    def __getattr__(self, method):
        if method not in CALLS:
            raise AttributeError(method)
        return lambda *args: self.calls.append((method, *args))


@pytest.fixture(autouse=True)
def recorders(monkeypatch) -> list[Recorder]:
    """The recorders that are made in a test."""
    monkeypatch.setattr(Recorder, "made", made := [])
    return made


def start(trackers: Trackers, run_ids: dict[str, str]) -> None:
    trackers.start(Path("run"), {"seed": 3}, "sinusoid/maml/run", "rates", ["maml"], run_ids)


def test_two_trackers_side_by_side_get_the_same_calls_in_order(recorders):
    trackers = Trackers({"first": Recorder(), "second": Recorder()})
    start(trackers, {})
    for method, args in CALLS.items():
        getattr(trackers, method)(*args)
    started = ("start", Path("run"), {"seed": 3}, "sinusoid/maml/run", "rates", ["maml"], None)
    wanted = [started, *((method, *args) for method, args in CALLS.items())]
    assert [recorder.calls for recorder in recorders] == [wanted, wanted]


def test_every_method_of_a_tracker_is_handed_on():
    methods = {name for name, method in vars(Tracker).items() if inspect.isfunction(method) and name[0] != "_"}
    assert methods == {"start", *CALLS}
    for method in CALLS:
        assert inspect.signature(getattr(Trackers, method)) == inspect.signature(getattr(Tracker, method))


def test_no_tracker_takes_every_call():
    trackers = Trackers({})
    start(trackers, {})
    for method, args in CALLS.items():
        getattr(trackers, method)(*args)
    assert trackers.run_ids == {}


def test_ids_are_kept_by_name_and_each_tracker_continues_its_own(tmp_path, recorders):
    first = Trackers({"a": Recorder("id of a"), "b": Recorder("id of b"), "c": Recorder(None)})
    start(first, {})
    assert first.run_ids == {"a": "id of a", "b": "id of b"}  # no service, no id
    write_run_ids(tmp_path / "tracker.json", first.run_ids)
    assert json.loads((tmp_path / "tracker.json").read_text()) == {"a": "id of a", "b": "id of b"}
    resumed = Trackers({"b": Recorder(), "d": Recorder()})
    start(resumed, read_tracker_ids(tmp_path / "tracker.json"))
    assert resumed.run_ids == {"b": "id of b", "d": "new"}
    assert [recorder.calls[0][-1] for recorder in recorders] == [None, None, None, "id of b", None]


def test_without_ids_there_is_no_file(tmp_path):
    write_run_ids(tmp_path / "tracker.json", {})
    assert not (tmp_path / "tracker.json").exists()
    assert read_tracker_ids(tmp_path / "tracker.json") == {}


def test_an_old_file_of_plain_text_is_the_id_of_wandb(tmp_path):
    (tmp_path / "tracker.json").write_text("3kf9x0ab")
    assert read_tracker_ids(tmp_path / "tracker.json") == {"wandb": "3kf9x0ab"}
    (tmp_path / "tracker.json").write_text("3kf9x0ab\n")
    assert read_tracker_ids(tmp_path / "tracker.json") == {"wandb": "3kf9x0ab"}


def test_a_tracker_that_cannot_start_raises_before_the_next_one_starts(recorders):
    trackers = Trackers({"first": Recorder(), "second": Recorder(error="refused"), "third": Recorder()})
    with pytest.raises(TrackerError, match="refused"):
        start(trackers, {})
    assert [len(recorder.calls) for recorder in recorders] == [1, 1, 0]


# ------------------------------------------------------------------------------------------- in runs of the command


def words(name: str, **arguments: str) -> list[str]:
    """Overrides that add a recorder to the configuration."""
    target = f"+tracker.{name}._target_={__name__}.Recorder"
    return [target, *(f"+tracker.{name}.{key}={value}" for key, value in arguments.items())]


@pytest.mark.slow
def test_a_run_gives_both_trackers_everything(tmp_path, recorders):
    arguments = (*SMALL, *words("first", new_id="one"), *words("second", new_id="two"), "hydra.run.dir=run")
    assert metarun(*arguments, folder=tmp_path).status == 0
    first, second = recorders
    assert first.calls[0] == second.calls[0] and first.calls[0][0] == "start"
    assert [call[0] for call in first.calls] == [call[0] for call in second.calls]
    assert {call[0] for call in first.calls} >= {"start", "log", "curve", "summary", "artifact", "finish"}
    assert ("finish", 0) == first.calls[-1] == second.calls[-1]
    assert read_tracker_ids(tmp_path / "run" / "checkpoint" / "tracker.json") == {"first": "one", "second": "two"}


def test_a_tracker_that_cannot_start_stops_the_run(tmp_path, recorders):
    arguments = (*SMALL, *words("first"), *words("second", error="refused"), "hydra.run.dir=run")
    outcome = metarun(*arguments, folder=tmp_path)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == "metarun: refused\n"
    assert not (tmp_path / "run" / "result.json").exists() and not (tmp_path / "run" / "checkpoint").exists()
    assert recorders[0].calls[-1] == ("finish", 2)


@pytest.mark.parametrize("method", CALLS)
def test_a_tracker_that_fails_records_nothing_more_and_the_others_go_on(method, capsys):
    broken, whole = Recorder(), Recorder()

    def fail(*_):
        raise ConnectionError("the service\nis gone")

    setattr(broken, method, fail)
    trackers = Trackers({"broken": broken, "whole": whole})
    for _ in range(2):
        getattr(trackers, method)(*CALLS[method])
    trackers.summary({})
    assert trackers.failed == {"broken": "ConnectionError: the service is gone"}
    assert [call[0] for call in whole.calls] == [method, method, "summary"] and broken.calls == []
    assert capsys.readouterr().err.count("\n") == 1
