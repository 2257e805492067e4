"""Several trackers as one: each records everything, ids are kept by name, and one that cannot start stops the run."""

from __future__ import annotations

import inspect
import json
import sqlite3
import time
from pathlib import Path

import pytest
from commands import SMALL, metarun, small, start

from metarun import train
from metarun.run_folder import (
    read_choices,
    read_config,
    read_result,
    read_runs,
    read_tracker_ids,
)
from metarun.tracking.jsonl import read_metrics
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


def begin(trackers: Trackers, run_ids: dict[str, str]) -> None:
    trackers.start(Path("run"), {"seed": 3}, "sinusoid/maml/run", "rates", ["maml"], run_ids)


def test_two_trackers_side_by_side_get_the_same_calls_in_order(recorders):
    trackers = Trackers({"first": Recorder(), "second": Recorder()})
    begin(trackers, {})
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
    begin(trackers, {})
    for method, args in CALLS.items():
        getattr(trackers, method)(*args)
    assert trackers.run_ids == {}


def test_ids_are_kept_by_name_and_each_tracker_continues_its_own(tmp_path, recorders):
    first = Trackers({"a": Recorder("id of a"), "b": Recorder("id of b"), "c": Recorder(None)})
    begin(first, {})
    assert first.run_ids == {"a": "id of a", "b": "id of b"}  # no service, no id
    write_run_ids(tmp_path / "tracker.json", first.run_ids)
    assert json.loads((tmp_path / "tracker.json").read_text()) == {"a": "id of a", "b": "id of b"}
    resumed = Trackers({"b": Recorder(), "d": Recorder()})
    begin(resumed, read_tracker_ids(tmp_path / "tracker.json"))
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
        begin(trackers, {})
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


# ---------------------------------------------------------------------------------- several, chosen by their names


BOTH = "tracker=[wandb,tensorboard]"
QUIET = "tracker.wandb.mode=disabled"


def trackers_of(folder: Path) -> tuple[str, list[str]]:
    """The choice of trackers that a run's folder keeps, and the trackers of its configuration."""
    return read_choices(folder)["tracker"], sorted(read_config(folder)["tracker"])


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """The folder of a run with two trackers, in that of the command."""
    folder = tmp_path_factory.mktemp("both")
    small(BOTH, QUIET, folder=folder)
    return folder / "run"


def test_the_folder_keeps_which_trackers_were_chosen(both):
    assert trackers_of(both) == ("[wandb,tensorboard]", ["tensorboard", "wandb"])
    assert read_config(both)["tracker"]["wandb"]["mode"] == "disabled"
    assert list((both / "tensorboard").iterdir())
    assert [run.algo for run in read_runs([both])] == ["maml"]


def test_a_run_is_tested_again_with_the_same_trackers_or_with_others(both):
    same = metarun(f"run.evaluate={both}", "hydra.run.dir=same", folder=both.parent)
    assert same.status == 0, same.err
    assert trackers_of(both.parent / "same") == ("[wandb,tensorboard]", ["tensorboard", "wandb"])
    assert read_config(both.parent / "same")["tracker"]["wandb"]["mode"] == "disabled"
    others = metarun(f"run.evaluate={both}", "tracker=[tensorboard,jsonl]", "hydra.run.dir=other", folder=both.parent)
    assert others.status == 0, others.err
    assert trackers_of(both.parent / "other") == ("[tensorboard,jsonl]", ["tensorboard"])


@pytest.mark.parametrize("said", [BOTH, "tracker=['wandb', 'tensorboard']"])
def test_a_resumed_run_may_be_told_its_trackers_again(both, said):
    outcome = metarun(f"run.resume={both}", said, folder=both.parent)
    assert outcome.status == 0 and "completed, there is nothing to resume" in outcome.out


@pytest.mark.parametrize("said", ["tracker=none", "tracker=[wandb,jsonl]", "tracker=wandb"])
def test_a_resumed_run_keeps_its_trackers(both, said):
    outcome = metarun(f"run.resume={both}", said, folder=both.parent)
    assert outcome.status == 2
    assert f"{said} contradicts the run in {both}, which has tracker=[wandb,tensorboard]" in outcome.err


def test_a_run_that_is_made_longer_goes_on_in_both(both):
    outcome = metarun(f"run.resume={both}", "run.iterations=67", folder=both.parent)
    assert outcome.status == 0, outcome.err
    assert len(list((both / "tensorboard").iterdir())) == 2
    assert trackers_of(both)[0] == "[wandb,tensorboard]"


def test_a_list_of_one_is_that_one(tmp_path):
    small("tracker=[tensorboard]", "run.iterations=2", folder=tmp_path)
    assert trackers_of(tmp_path / "run") == ("tensorboard", ["tensorboard"])


@pytest.mark.slow
def test_a_file_may_choose_several(tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    file = "# @package _global_\ndefaults:\n  - override /tracker: [wandb, tensorboard]\n"
    (tmp_path / "mine" / "experiment" / "both.yaml").write_text(file)
    words = [word for word in SMALL if word != "tracker=none"]
    outcome = metarun(
        *words, "--config-dir=mine", "experiment=both", QUIET, "run.iterations=2", "hydra.run.dir=run", folder=tmp_path
    )
    assert outcome.status == 0, outcome.err
    assert trackers_of(tmp_path / "run") == ("[wandb,tensorboard]", ["tensorboard", "wandb"])
    outcome = metarun("run.evaluate=run", "hydra.run.dir=again", folder=tmp_path)
    assert outcome.status == 0, outcome.err
    assert trackers_of(tmp_path / "again")[0] == "[wandb,tensorboard]"


def test_from_python(tmp_path):
    words = [word for word in SMALL if word != "tracker=none"]
    done = train(*words, "tracker=[tensorboard,jsonl]", "run.iterations=2", f"hydra.run.dir={tmp_path / 'run'}")
    assert trackers_of(done.folder) == ("[tensorboard,jsonl]", ["tensorboard"])
    assert read_result(done.folder)["incomplete"] == []


@pytest.mark.slow
def test_a_multirun_with_several_and_over_trackers(tmp_path):
    words = [word for word in SMALL if word != "tracker=none"]
    cells = ("-m", "tracker=[tensorboard,jsonl],none", "run.iterations=2", "hydra.sweep.dir=grid")
    outcome = metarun(*words, *cells, folder=tmp_path)
    assert outcome.status == 0, outcome.err
    folders = {trackers_of(path.parent)[0] for path in (tmp_path / "grid").glob("*/.hydra")}
    assert folders == {"[tensorboard,jsonl]", "none"}
    again = metarun("sweep.resume=grid", folder=tmp_path)
    assert again.status == 0 and "2 of 2 cells completed" in again.out, again.err


@pytest.mark.slow
def test_a_command_that_is_killed_and_resumed_shows_each_point_once(tmp_path):
    """The one way that a user meets all of this; TensorBoard and Trackio are the two that start quickly."""
    words = [word for word in SMALL if word not in ("tracker=none", "run.iterations=60")]
    trackers = ("tracker=[tensorboard,trackio]", f"tracker.trackio.dir={tmp_path / 'records'}")
    sizes = ("run.iterations=3000", "run.checkpoint_seconds=0.5", "hydra.run.dir=run")
    process = start(*words, *trackers, *sizes, folder=tmp_path, PYTHONDONTWRITEBYTECODE="")
    deadline = time.monotonic() + 120
    last = tmp_path / "run" / "checkpoint" / "last.json"
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    reached = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["iteration"]
    assert 0 < reached < 3000
    again = start("run.resume=run", f"run.iterations={3000 + 7}", folder=tmp_path, PYTHONDONTWRITEBYTECODE="")
    assert again.wait(120) == 0, again.communicate()[1]
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    wanted = [row["iteration"] for row in rows if "train/loss" in row]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == wanted
    with sqlite3.connect(tmp_path / "records" / "metarun.db") as file:
        kept = file.execute("SELECT step FROM metrics WHERE json_extract(metrics, '$.\"train/loss\"') NOT NULL")
        assert sorted(step for (step,) in kept) == wanted
